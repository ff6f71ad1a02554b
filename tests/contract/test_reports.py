"""Every file in reports/ renders whatever a results frame may hold, into every form, and drops no cell."""

import ast
import copy
import csv
import importlib
import io
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import reports
from harness.config import plugins
from harness.results import paper, table
from harness.results.frame import to_frame
from harness.results.rows import CellResult, Context

FOLDER = Path(reports.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
CELLS = sorted({cell for experiment, cell in paper.CELLS if experiment == "ablation_ensemble"})
NASTY = "my|decoder_<b>50%</b> & [bold]"


@pytest.fixture(params=NAMES)
def report(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"reports.{request.param}")


def result(cell: str, seed: int, status: str, label: str | None = None) -> CellResult:
    miou = 40.0 + seed + len(cell) / 7 if status == "done" else None
    reason = None if status == "done" else f"reason-{status}"
    over = None if cell == "upernet" else "upernet"
    return CellResult(
        "ablation_ensemble", cell, label or f"label-{cell}", seed, status, reason, miou=miou, baseline=over
    )


FRAMES = {
    "one seed": [result(cell, 0, "done") for cell in CELLS],
    "many seeds": [result(cell, seed, "done") for cell in CELLS for seed in range(3)],
    "missing": [result(cell, 0, "missing") for cell in CELLS],
    "mixed": [
        *(result("upernet", seed, "done") for seed in range(2)),
        *(result("decoder_a", seed, status) for seed, status in enumerate(("done", "failed", "running"))),
        result("decoder_b", 0, "missing"),
        result("decoder_ab", 0, "failed"),
        result("theirs", 0, "done", NASTY),
    ],
    "no baseline": [result("decoder_a", 0, "done")],
    "nothing": [],
}


@pytest.fixture(params=FRAMES)
def frame(request: pytest.FixtureRequest) -> pd.DataFrame:
    return to_frame(FRAMES[request.param])


@pytest.fixture(params=[True, False], ids=["paper's setting", "another setting"])
def context(request: pytest.FixtureRequest) -> Context:
    reasons = () if request.param else ("data: synthetic", "backbone: tiny BEiT", "schedule: 3 epochs")
    return Context(
        "ablation_ensemble", "Table 1 – A_B & C", "demo", "synthetic", request.param, reasons, "harness run x"
    )


def test_there_are_reports() -> None:
    assert "comparison" in NAMES


def test_every_form_shows_every_cell(report: ModuleType, frame: pd.DataFrame, context: Context) -> None:
    made = report.render(frame, context)
    assert isinstance(made, table.Report)
    assert made.tables
    tables = list(made.tables.values())
    forms = {
        table.markdown_text: table.report_markdown(made),
        table.latex_text: "".join(map(table.latex, tables)),
        table.clean: "".join(map(table.plain, tables)),
    }
    for escape, text in forms.items():
        assert not re.search(r"\b(nan|None|<NA>)\b", text, re.I)
        for label in frame["label"].unique():
            assert escape(label) in text
    for reason in frame["reason"].dropna().unique():
        assert reason in forms[table.markdown_text]


def test_csv_has_no_nan_and_as_many_rows_as_cells(report: ModuleType, frame: pd.DataFrame, context: Context) -> None:
    for one in report.render(frame, context).tables.values():
        rows = list(csv.reader(io.StringIO(table.to_csv(one))))
        assert len(rows) == len(one.rows) + 1
        assert not any(value.lower() in ("nan", "none", "<na>") for row in rows for value in row)


def test_files_are_written(report: ModuleType, frame: pd.DataFrame, context: Context, tmp_path: Path) -> None:
    made = report.render(frame, context)
    paths = table.write(made, tmp_path)
    assert {".md", ".csv", ".tex"} <= {path.suffix for path in paths} <= {".md", ".csv", ".tex", ".png", ".svg"}
    assert all(path.stat().st_size for path in paths)
    for path in paths:
        if path.suffix == ".tex":
            text = path.read_text()
            assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1


def test_another_setting_is_in_the_title(report: ModuleType, frame: pd.DataFrame, context: Context) -> None:
    titles = [one.title for one in report.render(frame, context).tables.values()]
    assert all(("not the paper's setting" in title) != context.comparable for title in titles)


TITLES = {name: plugins.load("experiments", name, ()).TITLE for name in plugins.names("experiments")}


@pytest.mark.parametrize("title", TITLES.values(), ids=TITLES)
def test_no_title_is_longer_than_80_characters(title: str, report: ModuleType, frame: pd.DataFrame) -> None:
    reasons = ("data: synthetic", "backbone: tiny BEiT", "schedule: 10 epochs", "BN group 4 instead of 16")
    made = report.render(
        frame, Context("ablation_ensemble", title, "demo", "synthetic", False, reasons, "harness run x")
    )
    titles = [title, *(each.title for each in (*made.tables.values(), *made.appendix.values()))]
    assert max(map(len, titles)) <= 80


def test_rendering_is_pure(report: ModuleType, frame: pd.DataFrame, context: Context) -> None:
    before = copy.deepcopy(frame)
    assert report.render(frame, context) == report.render(frame, context)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_imports_neither_torch_nor_mlflow(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    assert ast.get_docstring(tree)
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in imports if module.split(".")[0] in ("harness", "models", "experiments")}
    assert not {module.split(".")[0] for module in imports} & {"torch", "mlflow", "torchvision", "timm"}
    assert all(module.startswith(("harness.plan", "harness.results")) for module in ours)
