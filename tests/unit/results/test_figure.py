import sys
from pathlib import Path

import matplotlib.figure
import pytest
from PIL import Image

from harness.results import table
from harness.results.figure import Figure, import_libraries, render
from harness.results.table import Report
from reports._style import house


def draw() -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def test_a_report_writes_its_figures_as_png_and_where_asked_as_svg(tmp_path: Path) -> None:
    report = Report("T", {}, figures={"a b": Figure("Title", "a rising line", draw)})
    made = table.write(report, tmp_path, svg=True)
    assert [path.name for path in made] == ["report.md", "a_b.png", "a_b.svg"]
    assert Image.open(tmp_path / "a_b.png").width > 200
    assert (tmp_path / "a_b.svg").read_text().rstrip().endswith("</svg>")
    (tmp_path / "mine.svg").touch()
    assert [path.name for path in table.write(report, tmp_path)] == ["report.md", "a_b.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "a_b.png", "mine.svg"}


def test_equal_figures_have_equal_bytes() -> None:
    assert render(Figure("T", "", draw), svg=True) == render(Figure("T", "", draw), svg=True)


def test_libraries_that_cannot_be_imported_fail_who_draws_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seaborn", None)  # its import fails

    def styled() -> matplotlib.figure.Figure:
        with house():
            return draw()

    import_libraries()
    assert [path.name for path in table.write(Report("T", {}), tmp_path)] == ["report.md"]
    with pytest.raises(ImportError, match="seaborn"):
        table.write(Report("T", {}, figures={"a": Figure("Title", "", styled)}), tmp_path)
