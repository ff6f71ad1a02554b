from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import pytest

from harness.report import figure_stamp
from harness.report.folder import write_report
from harness.results.figure import Figure
from harness.results.rows import Context
from harness.results.table import Report

CONTEXT = Context("table", "Table", "demo", "synthetic", comparable=False)


class Drawings:
    """A report with two figures; `count` is how many were drawn."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        figures = {name: Figure(name, "a line", self.draw) for name in ("gains", "losses")}
        self.report = Report("Table", {}, figures=figures, source="reports.comparison")

    def draw(self) -> matplotlib.figure.Figure:
        self.count += 1
        figure = matplotlib.figure.Figure(figsize=(1, 1))
        figure.subplots().plot([0, self.count])
        return figure

    def write(self, context: Context = CONTEXT) -> int:
        """How many figures it took to write the report."""
        before = self.count
        paths = write_report(self.report, [], context, self.folder)
        forms = ("png", "svg") if context.svg else ("png",)
        files = [f"{name}.{form}" for name in ("gains", "losses") for form in forms]
        assert [path.name for path in paths if path.suffix in (".png", ".svg")] == files
        assert {path.name for path in self.folder.iterdir() if path.suffix in (".png", ".svg")} == {*files}
        assert all(path.is_file() for path in paths)
        return self.count - before


@pytest.fixture
def drawings(tmp_path: Path) -> Drawings:
    made = Drawings(tmp_path)
    assert made.write() == 2
    return made


def test_what_is_there_is_not_drawn_again(drawings: Drawings) -> None:
    before = (drawings.folder / "gains.png").read_bytes(), (drawings.folder / "index.html").read_bytes()
    assert drawings.write() == 0
    assert ((drawings.folder / "gains.png").read_bytes(), (drawings.folder / "index.html").read_bytes()) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "losses.png").unlink(),
        lambda folder: (folder / "gains.png").write_bytes((folder / "losses.png").read_bytes() + b"!"),
        lambda folder: (folder / figure_stamp.NAME).unlink(),
        lambda folder: (folder / figure_stamp.NAME).write_text("{"),
    ],
    ids=["a figure removed", "a figure edited", "the stamp removed", "the stamp damaged"],
)
def test_files_that_are_not_as_they_were_drawn_are(drawings: Drawings, spoil: Callable[[Path], object]) -> None:
    spoil(drawings.folder)
    assert drawings.write() == 2


def test_other_results_are_drawn(drawings: Drawings) -> None:
    assert drawings.write(replace(CONTEXT, margin=0.4)) == 2


def test_svg_is_drawn_where_asked_and_removed_where_not(drawings: Drawings) -> None:
    asked = replace(CONTEXT, svg=True)
    png = (drawings.folder / "gains.png").read_bytes()
    page = drawings.folder / "index.html"
    assert "data:image/png" in page.read_text()
    assert drawings.write(asked) == 2
    assert "data:image/svg+xml" in page.read_text()
    assert drawings.write(asked) == 0
    (drawings.folder / "gains.svg").unlink()
    assert drawings.write(asked) == 2
    assert drawings.write() == 2
    assert drawings.write() == 0
    assert (drawings.folder / "gains.png").read_bytes() != png  # of the last drawing


def test_other_libraries_and_sources_draw_again(
    drawings: Drawings, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(figure_stamp, "version", lambda name: f"{name} of tomorrow")
        assert drawings.write() == 2
    project = tmp_path_factory.mktemp("project")
    (project / "reports").mkdir()
    (project / "reports" / "_style.py").write_text("PAPER = 'red'")
    monkeypatch.setattr(figure_stamp, "PROJECT", project)
    assert drawings.write() == 2
    (project / "reports" / "_style.py").write_text("PAPER = 'blue'")
    assert drawings.write() == 2
    assert drawings.write() == 0


def test_a_persons_own_report_is_always_drawn(drawings: Drawings) -> None:
    drawings.report = replace(drawings.report, source="harness_plugin_mine")
    assert drawings.write() == drawings.write() == 2
