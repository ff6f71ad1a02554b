"""Every file in experiments/searches: what it says of itself, and that it can be searched under every preset."""

import ast
import re
from pathlib import Path

import pytest

from harness.config import plugins, presets
from harness.config.compose import compose
from harness.plan import study

NAMES = plugins.names("searches")
PRESETS = sorted(path.stem for path in presets.PRESETS.glob("*.yaml"))
EVERY = pytest.mark.parametrize("name", NAMES)


def test_the_folder_is_found() -> None:
    assert "momentum" in NAMES


@EVERY
def test_the_docstring_holds_question_cost_and_command(name: str) -> None:
    question, _, rest = plugins.docstring(plugins.find("searches", name)).partition("\n")
    assert "?" in question
    assert re.search(r"^Cost\b.*\d", rest, re.M)
    assert re.search(rf"^ +harness search {name}\b", rest, re.M)


@EVERY
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_searched(name: str, preset: str, tmp_path: Path) -> None:
    made = study.make(name, compose(preset), tmp_path)
    job = made.job(made.default, made.config["seed"])
    assert job.split == "dev"
    assert made.label(made.default)
    assert not list(tmp_path.iterdir())


@EVERY
def test_sampler_and_pruner_are_optunas(name: str, tmp_path: Path) -> None:
    import optuna

    from harness.search import storage

    made = study.make(name, compose("demo"), tmp_path)
    assert storage.build_sampler(made, 0) is not None
    assert storage.build(optuna.pruners, made.pruner, "PRUNER") is not None


@EVERY
def test_it_holds_values_only(name: str) -> None:
    tree = ast.parse(plugins.find("searches", name).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"harness.plan.search_space"}
