import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from harness.config import compose
from harness.plan import plan
from harness.results import frame as frames
from harness.results import metrics, stats
from harness.results import rows as results
from harness.results.frame import from_frame, summary, to_frame
from harness.results.rows import CellResult, ClaimResult, Context
from harness.results.rows_json import rows_json as json_of_rows

TABLE_1 = "ablation_ensemble"


def done(cell: str, seed: int, miou: float, **rest: Any) -> CellResult:
    return CellResult(TABLE_1, cell, cell.title(), seed, "done", miou=miou, **rest)


def context(**rest: Any) -> Context:
    return Context(TABLE_1, "Table 1", "demo", "synthetic", **{"comparable": False, "reasons": ("data: x",), **rest})


def measured(cell: str, seed: int, right: float, units: int = 24, **rest: Any) -> CellResult:
    """A done cell with matrices: `right` is how many of 1000 pixels a video are right, more or less by video."""
    generator = np.random.default_rng(seed)  # by seed, not by cell: the cells of a seed share their noise
    videos: dict[str, NDArray[np.int64]] = {}
    for index in range(units):
        hits = np.int64(right + generator.integers(-50, 50))
        videos[f"v{index:02}"] = np.array([[hits, 1000 - hits], [1000 - hits, hits]])
    miou = 100 * metrics.miou(np.sum(list(videos.values()), axis=0))
    return done(cell, seed, miou, units=units, **{"members": (f"{cell}-{seed}",), "videos": videos, **rest})


def table_1(seeds: int = 3, **rest: Any) -> pd.DataFrame:
    rows = []
    for seed in range(seeds):
        rows.append(measured("upernet", seed, 700, order=0, **rest))
        rows.append(measured("decoder_a", seed, 707, order=1, baseline="upernet", **rest))
        rows.append(measured("decoder_b", seed, 690, order=2, baseline="upernet", **rest))
        rows.append(measured("decoder_ab", seed, 750, order=3, baseline="upernet", **rest))
    return to_frame(rows)


def claims(frame: pd.DataFrame, context: Context) -> list[ClaimResult]:
    return results.claims(from_frame(frame, context))


def rows_json(frame: pd.DataFrame, contexts: list[Context]) -> dict[str, Any]:
    return json_of_rows((from_frame(frame, each), each) for each in contexts)


PAPERS = {"comparable": True, "reasons": ()}
WIDER = "report.margin=0.5"


@pytest.fixture
def frame() -> pd.DataFrame:
    """The baseline has seeds 0, 1, 2; decoder_a 1, 2 and a failure at 0; decoder_b nothing."""
    rows = [done("upernet", seed, miou, order=0, units=4) for seed, miou in ((0, 40.0), (1, 42.0), (2, 44.0))]
    rows += [done("decoder_a", seed, miou, order=1, baseline="upernet") for seed, miou in ((1, 43.0), (2, 47.0))]
    rows += [CellResult(TABLE_1, "decoder_a", "A", 0, "failed", "out of memory", order=1, baseline="upernet")]
    rows += [CellResult(TABLE_1, "decoder_b", "B", s, "missing", "not run", order=2) for s in range(3)]
    return to_frame(reversed(rows))


def test_rows_stand_in_the_order_of_cells_and_seeds(frame: pd.DataFrame) -> None:
    assert tuple(frame.columns) == frames.COLUMNS
    assert list(frame["cell"]) == ["upernet"] * 3 + ["decoder_a"] * 3 + ["decoder_b"] * 3
    assert list(frame["seed"]) == [0, 1, 2] * 3


def test_the_papers_numbers_are_joined(frame: pd.DataFrame) -> None:
    first = frame.groupby("cell").first()
    assert first.loc["decoder_a", "paper_miou"] == 61.24
    assert first.loc["decoder_a", "paper_gain"] == 1.22
    own = to_frame([CellResult("my_experiment", "decoder_a", "A", 0)])
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
    frame = to_frame([done("upernet", 0, 40.0), done("decoder_a", 1, 50.0, baseline="upernet", order=1)])
    row = summary(frame).set_index("cell").loc["decoder_a"]
    assert (row["gain"], row["gain_seeds"]) == (None, 0)


def test_the_baseline_of_another_experiment_does_not_count() -> None:
    other = CellResult("other", "upernet", "U", 0, "done", miou=10.0)
    frame = to_frame([other, done("decoder_a", 0, 50.0, baseline="upernet")])
    assert summary(frame).set_index("cell").loc["decoder_a", "gain"] is None


def test_one_seed_has_no_deviation() -> None:
    row = summary(to_frame([done("upernet", 0, 40.0)])).iloc[0]
    assert (row["miou"], row["sd"]) == (40.0, None)


def test_without_matrices_no_interval_and_no_verdict_is_claimed(frame: pd.DataFrame) -> None:
    rows = summary(frame, context(**PAPERS)).set_index("cell")
    assert rows[["low", "high", "gain_low", "gain_high", "verdict"]].isna().all(axis=None)
    assert rows.loc["upernet", "no_interval"] == "confusion matrices per video are not available"
    assert rows.loc["decoder_b", "no_interval"] is None  # it is not done, which its reason says


def test_intervals_are_in_percent_around_the_mean_over_seeds() -> None:
    frame = table_1()
    rows = summary(frame).set_index("cell")
    for cell in ("upernet", "decoder_a"):
        sums = list(frame.loc[frame["cell"] == cell, "sums"])
        assert (rows.loc[cell, "low"], rows.loc[cell, "high"]) == tuple(100 * b for b in stats.interval(sums)[:2])
        assert rows.loc[cell, "low"] < rows.loc[cell, "miou"] < rows.loc[cell, "high"]
    a = rows.loc["decoder_a"]
    assert a["gain_low"] < a["gain"] < a["gain_high"]
    assert a["gain_high"] - a["gain_low"] < 0.2 * (a["high"] - a["low"])  # paired
    assert rows.loc["upernet", ["gain_low", "gain_high"]].isna().all()
    assert a["described"] == "24 videos"
    gain = next(row.gain for row in from_frame(frame, context()) if row.cell == "decoder_a")
    assert (a["interval_of"], a["gain_interval_of"]) == ("seeds and videos", "seeds and videos")
    assert a["gain_sd_seeds"] == pytest.approx(gain.sd) == pytest.approx(a["gain_sd"])
    assert a["gain_sd_units"] == gain.interval.sd_units


def test_the_gain_rests_on_the_seeds_that_both_have() -> None:
    rows = [measured("upernet", seed, 700, order=0) for seed in (0, 1)]
    rows += [measured("decoder_a", seed, 720 + 10 * seed, order=1, baseline="upernet") for seed in (1, 2)]
    found = summary(to_frame(rows)).set_index("cell").loc["decoder_a"]
    one = to_frame([row for row in rows if row.seed == 1])
    alone = summary(one).set_index("cell").loc["decoder_a"]
    assert [found[key] for key in ("gain", "gain_low", "gain_high")] == [
        alone[key] for key in ("gain", "gain_low", "gain_high")
    ]
    assert found["gain_seeds"] == 1


def test_few_units_are_a_reason() -> None:
    rows = summary(table_1(units=4, seeds=2), context(**PAPERS)).set_index("cell")
    assert rows[["low", "high", "gain_low", "gain_high", "verdict"]].isna().all(axis=None)
    assert set(rows["no_interval"]) == {"4 videos: fewer than 20 videos (or recordings) and fewer than 3 seeds"}


def test_three_seeds_on_few_units_speak_of_these_videos_and_give_no_verdict() -> None:
    recording = {f"v{index:02}": "0016E5" for index in range(24)}
    frame = table_1(unit_of=recording)
    rows = summary(frame, context(**PAPERS)).set_index("cell")
    assert set(rows["interval_of"]) == {"seeds, these videos"}
    assert rows["sd_units"].isna().all()
    a = rows.loc["decoder_a"]
    half = 4.302653 * a["gain_sd"] / math.sqrt(3)  # Student's t with 2 degrees of freedom
    assert (a["gain_low"], a["gain_high"]) == pytest.approx((a["gain"] - half, a["gain"] + half))
    assert rows["verdict"].isna().all()
    assert {one.reason for one in claims(frame, context(**PAPERS))} == {
        "fewer than 20 videos (or recordings): the interval covers these videos only"
    }
    assert {one.verdict for one in claims(frame, context())} == {"not comparable"}


def test_a_gain_over_other_videos_has_no_interval() -> None:
    rows = [measured("upernet", 0, 700), measured("decoder_a", 0, 700, units=25, baseline="upernet", order=1)]
    row = summary(to_frame(rows)).set_index("cell").loc["decoder_a"]
    assert row["low"] is not None
    assert (row["gain_low"], row["no_interval"]) == (None, "gain: rows differ in videos or classes")


def test_verdicts_are_on_the_papers_claims_not_on_the_gain_column() -> None:
    frame = table_1()
    rows = summary(frame, context(**PAPERS)).set_index("cell")
    found = {one.claim.cell: one for one in claims(frame, context(**PAPERS))}
    assert list(found) == ["decoder_a", "decoder_b", "decoder_ab"]
    ab = found["decoder_ab"]
    assert ab.claim.baseline == "decoder_a"
    gains = rows["miou"]
    assert ab.ours.mean == pytest.approx(gains["decoder_ab"] - gains["decoder_a"])
    assert rows.loc["decoder_ab", "gain"] == pytest.approx(gains["decoder_ab"] - gains["upernet"])
    assert dict(rows["verdict"]) == {
        "upernet": None,
        "decoder_a": "same sign",
        "decoder_b": "contradicted",
        "decoder_ab": "same sign",
    }


def test_one_seed_speaks_of_this_pair_only() -> None:
    rows = summary(table_1(seeds=1), context(**PAPERS)).set_index("cell")
    assert set(rows["verdict"].dropna()) == {"this pair of checkpoints only"}
    assert set(rows["gain_interval_of"].dropna()) == {"videos, this pair of checkpoints"}
    assert set(rows["interval_of"]) == {"videos, these checkpoints"}
    two = summary(table_1(seeds=2), context(**PAPERS))
    assert set(two["gain_interval_of"].dropna()) == {"seeds and videos"}


def test_seeds_that_share_trainings_are_no_seeds() -> None:
    pairs = {0: ("u0", "u1"), 1: ("u1", "u2"), 2: ("u2", "u1")}
    rows = [measured("upernet", seed, 700, members=(f"u{seed}",)) for seed in pairs]
    rows += [
        measured("upernet_pair", seed, 705, members=members, order=1, baseline="upernet")
        for seed, members in pairs.items()
    ]
    pair = summary(to_frame(rows)).set_index("cell").loc["upernet_pair"]
    assert (pair["low"], pair["gain_low"], pair["no_interval"]) == (None, None, "its seeds share trainings")
    first = summary(to_frame([row for row in rows if row.seed == 0])).set_index("cell").loc["upernet_pair"]
    assert first["gain_interval_of"] == "videos, this pair of checkpoints"


def test_the_margin_of_the_context_decides_what_is_equal() -> None:
    rows = [measured("upernet", seed, 700, order=0) for seed in range(5)]
    rows += [measured("decoder_a", seed, 700 + (-1) ** seed, order=1, baseline="upernet") for seed in range(5)]
    frame = to_frame(rows)
    (claim,) = claims(frame, context(**PAPERS))
    assert claim.ours.interval.low < 0 < claim.ours.interval.high < 0.3
    assert claim.verdict == "no difference of 0.3 or more"
    assert claims(frame, context(**PAPERS, margin=0.05))[0].verdict == "undecided"
    assert claims(frame, context(**PAPERS, margin=0.5))[0].verdict == "no difference of 0.5 or more"


@pytest.mark.parametrize(
    ("base", "later", "word"),
    [
        ("a", "a", "same sign"),
        ("a", "b", "this pair of checkpoints only"),
        ("", "", "this pair of checkpoints only"),  # not known: no agreement
    ],
)
def test_evaluations_of_one_checkpoint_need_one_seed(base: str, later: str, word: str) -> None:
    rows = [
        measured("stage0", 0, 700, members=(base,) if base else ()),
        measured("stage1", 0, 701, members=(later,) if later else (), order=1, baseline="stage0"),
    ]
    rows = [replace(row, experiment="ablation_stages") for row in rows]
    made = Context("ablation_stages", "Table 2", "paper", "vspw", comparable=True)
    assert summary(to_frame(rows), made).set_index("cell").loc["stage1", "verdict"] == word


def test_another_setting_is_not_comparable_and_says_why() -> None:
    frame = table_1()
    assert set(summary(frame, context())["verdict"].dropna()) == {"not comparable"}
    assert {one.reason for one in claims(frame, context())} == {"data: x"}
    silent = context(comparable=False, reasons=())
    assert {one.verdict for one in claims(frame, silent)} == {"not comparable"}


def test_no_verdict_without_the_context_that_decides_it() -> None:
    assert summary(table_1())["verdict"].isna().all()


def test_no_claim_of_an_experiment_that_the_paper_does_not_have() -> None:
    rows = [CellResult("mine", cell, cell, 0, "done", miou=1.0) for cell in ("upernet", "decoder_a")]
    assert claims(to_frame(rows), Context("mine", "Mine", "demo", "vspw", comparable=True)) == []
    frame = to_frame([*rows, measured("upernet", 0, 700)])
    assert summary(frame, context(**PAPERS))["verdict"].isna().all()  # and none where only one cell is there


def test_the_frame_holds_sums_instead_of_matrices(frame: pd.DataFrame) -> None:
    made = table_1(seeds=1)
    assert not {"videos", "unit_of"} & set(made.columns)
    assert all(isinstance(value, stats.UnitSums) for value in made["sums"])
    assert frame["sums"].isna().all()
    text = json.dumps(rows_json(made, [context()]), allow_nan=False)
    assert "sums" not in text
    assert "v00" not in text


def test_a_plans_cell_knows_its_trainings(tmp_path: Path) -> None:
    made = plan.make(["ablation_ensemble"], compose.compose("demo", [], ()), tmp_path)
    (experiment,) = made.experiments
    cells = [results.result(experiment, order, seed, cell) for order, (seed, cell) in enumerate(experiment.cells)]
    upernet, a, b, ab = (cell.members for cell in cells)
    assert len({upernet, a, b}) == 3
    assert sorted(ab) == sorted((*a, *b))


def test_options_of_reports_are_keys_that_no_job_knows(tmp_path: Path) -> None:
    first, other = (
        plan.make(["ablation_ensemble"], compose.compose("demo", given), tmp_path)
        for given in ([], [WIDER, "report.svg=true"])
    )
    assert [job.fingerprint for job in first.jobs] == [job.fingerprint for job in other.jobs]
    assert first.experiments[0].digest == other.experiments[0].digest
    assert [results.context(made.experiments[0], ()).svg for made in (first, other)] == [False, True]
    margins = [results.context(made.experiments[0], ()).margin for made in (first, other)]
    assert margins == [stats.MARGIN, 0.5] == [0.3, 0.5]
    (experiment,) = other.experiments
    older = {key: value for key, value in experiment.config.tree.items() if key != "report"}
    before = results.context(replace(experiment, config=replace(experiment.config, tree=older)), ())
    assert (before.margin, before.svg) == (0.3, False)


def test_nothing_at_all() -> None:
    assert summary(to_frame([])).empty
    assert rows_json(to_frame([]), [context()])["experiments"][0]["rows"] == []


def test_a_seed_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="seed 0 occurs twice"):
        to_frame([done("upernet", 0, 40.0), done("upernet", 0, 41.0)])


@pytest.mark.parametrize(("status", "miou"), [("done", None), ("missing", 3.0), ("lost", None)])
def test_a_result_is_done_exactly_if_it_has_a_number(status: str, miou: float | None) -> None:
    with pytest.raises(ValueError, match="upernet"):
        CellResult(TABLE_1, "upernet", "U", 0, status, miou=miou)


def test_json_has_its_schema(frame: pd.DataFrame) -> None:
    made = json.loads(json.dumps(rows_json(frame, [context()]), allow_nan=False))
    assert made["schema"] == 1
    (experiment,) = made["experiments"]
    assert list(experiment) == ["experiment", "preset", "dataset", "comparable", "reason", "rows", "claims"]
    assert (experiment["comparable"], experiment["reason"]) == (False, "data: x")
    keys = "cell status reason seeds units miou low high gain gain_low gain_high paper_miou paper_gain verdict "
    keys += "interval_of sd_seeds sd_units gain_interval_of gain_sd_seeds gain_sd_units metrics cost runs"
    assert all(list(row) == keys.split() for row in experiment["rows"])
    upernet, a, b = experiment["rows"]
    assert (upernet["miou"], upernet["gain"], upernet["seeds"], upernet["units"]) == (42.0, None, 3, 4)
    assert [run["miou"] for run in a["runs"]] == [None, 43.0, 47.0]
    assert (b["miou"], b["low"], b["paper_miou"], b["reason"]) == (None, None, 61.18, "not run")


def test_json_has_intervals_and_verdicts_or_the_reason() -> None:
    rows = {row["cell"]: row for row in rows_json(table_1(), [context(**PAPERS)])["experiments"][0]["rows"]}
    a = rows["decoder_a"]
    assert a["low"] < a["miou"] < a["high"]
    assert a["gain_low"] < a["gain"] < a["gain_high"]
    assert (a["verdict"], a["reason"]) == ("same sign", None)
    _, _, claim = rows_json(table_1(), [context(**PAPERS)])["experiments"][0]["claims"]
    assert (claim["cell"], claim["over"], claim["paper_gain"], claim["verdict"]) == (
        *("decoder_ab", "decoder_a", 0.88, "same sign"),
    )
    assert claim["gain_low"] < claim["gain"] < claim["gain_high"]
    assert claim["interval_of"] == a["interval_of"] == a["gain_interval_of"] == "seeds and videos"
    assert min(claim["sd_seeds"], a["sd_seeds"]) > 0
    assert a["sd_units"] == 0  # a seed's luck with a video is its own here: more seeds lessen it
    few = rows_json(table_1(units=4, seeds=1), [context(**PAPERS)])["experiments"][0]["rows"]
    assert {(row["low"], row["verdict"], row["reason"]) for row in few} == {
        (None, None, "4 videos: fewer than 20 videos (or recordings) and fewer than 3 seeds")
    }


def test_json_never_holds_nan() -> None:
    made = rows_json(to_frame([done("upernet", 0, math.nan)]), [context(reasons=())])
    assert "NaN" not in json.dumps(made)
    assert made["experiments"][0]["reason"] is None
