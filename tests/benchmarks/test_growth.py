"""The growth script at its smallest: a point of each kind, and the pictures of a table that is whole."""

import tempfile
from pathlib import Path

import pandas as pd
import pytest
from benchmarks import growth


@pytest.fixture(autouse=True)
def _folders_as_other_tests(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    (point,) = growth.evaluations({"stages": [1]})
    assert (point["series"], point["x"]) == ("stages", 1)
    assert point["seconds"] > 0
    assert 100 < point["megabytes"] < 4000


def test_commands_find_their_way_in_a_full_store() -> None:
    points = list(growth.stores([2], repeats=1))
    assert [point["series"] for point in points] == list(growth.COMMANDS)
    assert all(point["seconds"] > 0 for point in points)


def test_pictures(tmp_path: Path) -> None:
    whole = {**growth.EVALUATION, **dict.fromkeys(growth.COMMANDS, growth.RUNS)}
    rows = [(name, x, 1.0, 2.0) for name, values in whole.items() for x in values]
    growth.draw(pd.DataFrame(rows, columns=["series", "x", "seconds", "megabytes"]), tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"growth_evaluation", "growth_store"}


def test_growth_is_the_most_runs_over_the_fewest() -> None:
    rows = [("plan", 10, 0.5), ("plan", growth.RUNS[-1], 0.9), ("frames", 20, 1.0)]
    assert growth.growth(pd.DataFrame(rows, columns=["series", "x", "seconds"])) == {"plan": 1.8}
