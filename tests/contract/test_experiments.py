"""Every file in experiments/: what it says of itself, and what it plans under every preset."""

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest

from harness.config import plugins, presets
from harness.config.compose import compose
from harness.plan import plan
from harness.plan.cell import Cell
from harness.plan.job import Evaluate
from harness.results import paper

NAMES = plugins.names("experiments")
PRESETS = sorted(path.stem for path in presets.PRESETS.glob("*.yaml"))
EVERY = pytest.mark.parametrize("name", NAMES)


def load(name: str) -> ModuleType:
    return plugins.load("experiments", name)


def cells(name: str, preset: str = "demo", seed: int = 0) -> list[Cell]:
    made: list[Cell] = load(name).cells(compose(preset, [f"seed={seed}"]))
    return made


def test_the_folder_is_found() -> None:
    assert "ablation_ensemble" in NAMES
    assert "demo" in PRESETS


@EVERY
def test_it_exposes_the_fixed_names(name: str) -> None:
    module = load(name)
    assert isinstance(module.TITLE, str)
    assert module.TITLE.strip()
    assert module.REPORT in plugins.names("reports")
    assert callable(module.cells)


@EVERY
def test_the_docstring_holds_question_expectation_cost_and_command(name: str) -> None:
    text = plugins.docstring(plugins.find("experiments", name))
    question, _, rest = text.partition("\n")
    assert "?" in question
    assert re.search(r"^Expected\b.*\d", rest, re.M | re.S)
    assert re.search(r"^Cost\b.*\d", rest, re.M)
    assert re.search(rf"^ +harness run {name}\b", rest, re.M)


@EVERY
def test_the_numbers_in_the_docstring_are_the_papers(name: str) -> None:
    text = plugins.docstring(plugins.find("experiments", name))
    known = [number for (experiment, _), number in paper.CELLS.items() if experiment == name]
    assert all(f"{number.miou:.2f}" in text for number in known)


@EVERY
def test_the_papers_cells_are_there(name: str) -> None:
    assert {cell for experiment, cell in paper.CELLS if experiment == name} <= {cell.name for cell in cells(name)}


@EVERY
def test_cells_have_names_of_their_own_and_gains_over_one_another(name: str) -> None:
    found = cells(name)
    names = [cell.name for cell in found]
    assert names
    assert len(set(names)) == len(names)
    assert len({cell.label or cell.method for cell in found}) == len(found)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", one) for one in names)
    for cell in found:
        assert isinstance(cell.job, Evaluate)
        assert cell.over is None or (cell.over in names and cell.over != cell.name)


@EVERY
def test_cells_follow_from_the_configuration_alone(name: str) -> None:
    assert cells(name) == cells(name)
    one, other = ({cell.job.fingerprint for cell in cells(name, seed=seed)} for seed in (0, 1))
    assert one.isdisjoint(other)


@EVERY
@pytest.mark.parametrize("preset", PRESETS)
def test_it_can_be_planned_under_every_preset(name: str, preset: str, tmp_path: Path) -> None:
    made = plan.make([name], compose(preset), tmp_path / "runs", seeds=2)
    assert len(made.experiments[0].cells) == 2 * len(cells(name, preset))
    assert {made.state(job) for job in made.jobs} == {"missing"}
    assert all(job.spec().fingerprint == job.fingerprint for job in made.jobs)
    assert not (tmp_path / "runs").exists()


@EVERY
def test_it_imports_plans_and_results_alone(name: str) -> None:
    tree = ast.parse(plugins.find("experiments", name).read_text())
    froms = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {module for module in froms | imports if module.partition(".")[0] in ("harness", "models", "reports")}
    assert all(module.startswith(("harness.plan", "harness.results")) for module in ours)
