from pathlib import Path

import pytest
from PIL import Image

from harness.report.qualitative import Panel, save


def panel(file: str, colour: tuple[int, int, int]) -> Panel:
    return Panel(file, "a title", "a text", Image.new("RGB", (40, 30), colour), ("road",), ("upernet",), (40, 30))


def test_a_panel_that_is_there_is_not_compressed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = [panel("a.png", (9, 9, 9)), panel("b.png", (1, 2, 3))]
    (tmp_path / "left.png").write_bytes(b"of an earlier report")
    described = save(panels, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["a.png", "b.png"]
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: pytest.fail("compressed again"))
        assert save(panels, tmp_path) == described
    (tmp_path / "a.png").write_bytes(before["b.png"])  # another picture
    (tmp_path / "b.png").write_bytes(before["b.png"][:60])  # torn
    save(panels, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save([panel("b.png", (1, 2, 4))], tmp_path)
    assert Image.open(tmp_path / "b.png").getpixel((0, 0)) == (1, 2, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]
