import json
import math
from typing import Any

import pandas as pd
import pytest

from harness.core import results
from harness.core.results import CellResult, Context, build, rows_json, summary

TABLE_1 = "ablation_ensemble"


def done(cell: str, seed: int, miou: float, **rest: Any) -> CellResult:
    return CellResult(TABLE_1, cell, cell.title(), seed, "done", miou=miou, **rest)


def context(**rest: Any) -> Context:
    return Context(TABLE_1, "Table 1", "demo", "synthetic", **{"comparable": False, "reasons": ("data: x",), **rest})


@pytest.fixture
def frame() -> pd.DataFrame:
    """The baseline has seeds 0, 1, 2; decoder_a 1, 2 and a failure at 0; decoder_b nothing."""
    rows = [done("upernet", seed, miou, order=0, units=4) for seed, miou in ((0, 40.0), (1, 42.0), (2, 44.0))]
    rows += [done("decoder_a", seed, miou, order=1, baseline="upernet") for seed, miou in ((1, 43.0), (2, 47.0))]
    rows += [CellResult(TABLE_1, "decoder_a", "A", 0, "failed", "out of memory", order=1, baseline="upernet")]
    rows += [CellResult(TABLE_1, "decoder_b", "B", s, "missing", "not run", order=2) for s in range(3)]
    return build(reversed(rows))


def test_rows_stand_in_the_order_of_cells_and_seeds(frame: pd.DataFrame) -> None:
    assert tuple(frame.columns) == results.COLUMNS
    assert list(frame["cell"]) == ["upernet"] * 3 + ["decoder_a"] * 3 + ["decoder_b"] * 3
    assert list(frame["seed"]) == [0, 1, 2] * 3


def test_the_papers_numbers_are_joined(frame: pd.DataFrame) -> None:
    first = frame.groupby("cell").first()
    assert first.loc["decoder_a", "paper_miou"] == 61.24
    assert first.loc["decoder_a", "paper_gain"] == 1.22
    own = build([CellResult("my_experiment", "decoder_a", "A", 0)])
    assert own["paper_miou"].isna().all()


def test_gains_are_paired_by_seed(frame: pd.DataFrame) -> None:
    row = summary(frame).set_index("cell").loc["decoder_a"]
    assert row["gain"] == pytest.approx((43 - 42 + 47 - 44) / 2)  # not 45 - 42, the difference of the means
    assert row["gain_sd"] == pytest.approx(math.sqrt(2))
    assert (row["seeds"], row["planned"], row["gain_seeds"]) == (2, 3, 2)
    assert row["status"] == "failed"
    assert row["reason"] == "seed 0: out of memory"


def test_mean_and_sample_deviation(frame: pd.DataFrame) -> None:
    row = summary(frame).set_index("cell").loc["upernet"]
    assert (row["miou"], row["sd"], row["units"]) == (42.0, 2.0, 4)
    assert row["gain"] is None


def test_a_cell_without_numbers_keeps_its_row(frame: pd.DataFrame) -> None:
    row = summary(frame).set_index("cell").loc["decoder_b"]
    assert (row["status"], row["reason"], row["seeds"], row["miou"]) == ("missing", "not run", 0, None)


def test_no_gain_without_a_common_seed() -> None:
    frame = build([done("upernet", 0, 40.0), done("decoder_a", 1, 50.0, baseline="upernet", order=1)])
    row = summary(frame).set_index("cell").loc["decoder_a"]
    assert (row["gain"], row["gain_seeds"]) == (None, 0)


def test_the_baseline_of_another_experiment_does_not_count() -> None:
    other = CellResult("other", "upernet", "U", 0, "done", miou=10.0)
    frame = build([other, done("decoder_a", 0, 50.0, baseline="upernet")])
    assert summary(frame).set_index("cell").loc["decoder_a", "gain"] is None


def test_one_seed_has_no_deviation() -> None:
    row = summary(build([done("upernet", 0, 40.0)])).iloc[0]
    assert (row["miou"], row["sd"]) == (40.0, None)


def test_intervals_and_verdicts_are_not_claimed(frame: pd.DataFrame) -> None:
    assert summary(frame)[["low", "high", "gain_low", "gain_high", "verdict"]].isna().all(axis=None)


def test_nothing_at_all() -> None:
    assert summary(build([])).empty
    assert rows_json(build([]), [context()])["experiments"][0]["rows"] == []


def test_a_seed_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="seed 0 stands twice"):
        build([done("upernet", 0, 40.0), done("upernet", 0, 41.0)])


@pytest.mark.parametrize(("status", "miou"), [("done", None), ("missing", 3.0), ("lost", None)])
def test_a_result_is_done_exactly_if_it_has_a_number(status: str, miou: float | None) -> None:
    with pytest.raises(ValueError, match="upernet"):
        CellResult(TABLE_1, "upernet", "U", 0, status, miou=miou)


def test_json_has_designs_schema(frame: pd.DataFrame) -> None:
    made = json.loads(json.dumps(rows_json(frame, [context()]), allow_nan=False))
    assert made["schema"] == 1
    (experiment,) = made["experiments"]
    assert list(experiment) == ["experiment", "preset", "dataset", "comparable", "reason", "rows"]
    assert (experiment["comparable"], experiment["reason"]) == (False, "data: x")
    keys = "cell status reason seeds units miou low high gain gain_low gain_high paper_miou paper_gain verdict runs"
    assert all(list(row) == keys.split() for row in experiment["rows"])
    upernet, a, b = experiment["rows"]
    assert (upernet["miou"], upernet["gain"], upernet["seeds"], upernet["units"]) == (42.0, None, 3, 4)
    assert [run["miou"] for run in a["runs"]] == [None, 43.0, 47.0]
    assert (b["miou"], b["low"], b["paper_miou"], b["reason"]) == (None, None, 61.18, "not run")


def test_json_never_holds_nan() -> None:
    made = rows_json(build([done("upernet", 0, math.nan)]), [context(reasons=())])
    assert "NaN" not in json.dumps(made)
    assert made["experiments"][0]["reason"] is None
