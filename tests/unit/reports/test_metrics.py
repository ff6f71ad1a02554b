"""The table of other metrics: what is there, in which variant, and nothing where there is only mIoU."""

import numpy as np
import pytest

from harness.results import measures
from harness.results import rows as rows_module
from harness.results.records import RunRecord, maker
from harness.results.rows import CellResult, Context, aggregate
from harness.results.table import Table
from reports import _metrics, _per_class

ALL = {"miou": 60.0, "miou_nanmean": 59.5, "fwiou": 70.25, "accuracy": 80.0, "mean_accuracy": 65.0}
VC = {"mvc8": 90.0, "mvc16": 85.5, "mvc8_strict": 50.0, "mvc16_strict": 40.0}


def context(vc="official"):
    return Context("e", "T", "demo", "synthetic", comparable=False, vc=vc)


def table(rows: list[CellResult], context: Context) -> Table | None:
    return _metrics.table(aggregate(rows), context)


def cell(name, metrics):
    return CellResult("e", name, name.upper(), 0, "done", miou=60.0, metrics=metrics or {})


@pytest.mark.parametrize(("vc", "eight"), [("official", "90.00"), ("strict", "50.00")])
def test_the_variant_is_chosen_and_named(vc, eight):
    output = table([cell("a", {**ALL, **VC}), cell("b", None)], context(vc))
    row = dict(zip(output.columns, output.rows[0], strict=True))
    assert row["mVC8"] == eight
    assert row["wIoU"] == "70.25"
    assert row["mean accuracy"] == "65.00"
    assert output.rows[1] == ("B", *["–"] * 7)
    assert f"{vc} variant" in output.notes[1]
    assert output.raw[1]["fwiou"] is None


def test_rows_without_consistency_have_no_such_column():
    output = table([cell("a", ALL)], context())
    assert not any(column.startswith("mVC") for column in output.columns)
    assert len(output.notes) == 1


def test_there_is_no_table_of_nothing():
    assert table([cell("a", {"miou": 60.0}), cell("b", {})], context()) is None


def measured(name: str, seeds: int, better: int = 0, units: int = 24) -> list[CellResult]:
    """Runs of a cell whose boundary and class sums are drawn, `better` of the hits more."""
    results = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        videos = {}
        own = {}
        for unit in range(units):
            confusion = np.diag(rng.integers(60, 70, 3)) + rng.integers(5, 15, (3, 3))
            confusion += better * np.eye(3, dtype=np.int64)
            videos[f"v{unit}"] = confusion
            pixels, wrong = rng.integers(90, 110, 15), rng.integers(5, 10, 15) + (0 if better else 20)
            own[f"v{unit}"] = np.stack([pixels, pixels * 1.0, pixels - wrong]).astype(float)
        makers = {name: maker(name) for name in ("mean_iou", "precision_recall", "calibration")}
        record = RunRecord("f", videos, {}, own={"calibration": own}, makers=makers)
        unit_of = {video: video for video in videos}
        results.append(
            CellResult(
                *("e", name, name.upper(), seed, "done"),
                miou=record.final["miou"],
                metrics=record.final,
                baseline=None if name == "a" else "a",
                order=ord(name),
                members=(f"{name}{seed}",),
                videos=videos,
                unit_of=unit_of,
                totals=record.totals(unit_of),
            )
        )
    return results


def test_chosen_metrics_are_columns_with_intervals_gains_and_verdicts() -> None:
    rows = aggregate([*measured("a", 3), *measured("b", 3, better=40)])
    output = _metrics.table(rows, context())
    assert output.columns == ("Method", "mIoU", "mIoU, nanmean", "mean precision", "mean recall", "ECE")
    table = _metrics.intervals(rows, context())
    lines = {(line[0], line[1]): line for line in table.rows}
    ece = measures.measure(rows[1], "ece")
    assert ece.interval.of == "seeds and videos"
    assert lines["ECE", "B"][2] == f"{ece.mean:.2f} [{ece.interval.low:.2f}, {ece.interval.high:.2f}]"
    assert (lines["ECE", "B"][4], ece.gain.mean < 0) == ("better", True)
    assert lines["mean recall", "B"][4] == "better"
    assert lines["ECE", "A"][3:] == ("–", "–")
    assert "Lower is better: ECE." in table.notes
    raw = {(line["metric"], line["cell"]): line for line in table.raw}
    assert raw["ece", "b"]["gain"] == pytest.approx(rows[1].metrics["ece"] - rows[0].metrics["ece"])
    assert "miou" not in {line["metric"] for line in table.raw}, "it has a table of its own"


def test_an_interval_of_a_metric_is_made_as_that_of_miou() -> None:
    rows = aggregate([*measured("a", 3), *measured("b", 3, better=40)])
    for row in rows:
        assert measures.measure(row, "miou").interval == row.interval
        again = rows_module.interval_of(row.done, number="miou_nanmean")  # equal here: every class has truth
        assert again.low == pytest.approx(row.interval.low, rel=1e-9)
        assert again.high == pytest.approx(row.interval.high, rel=1e-9)


def test_worse_and_undecided_and_equal_are_said() -> None:
    worse = aggregate([*measured("a", 3, better=40), *measured("b", 3)])[1]
    assert measures.measure(worse, "ece").verdict(0.3).word == "worse"
    same = aggregate([*measured("a", 3), *measured("b", 3)])[1]
    assert measures.measure(same, "ece").verdict(0.3).word == "no difference of 0.3 or more"
    one = aggregate([*measured("a", 1), *measured("b", 1, better=40)])[1]
    assert measures.measure(one, "ece").verdict(0.3).word == "this pair of checkpoints only"
    few = aggregate([*measured("a", 1, units=4), *measured("b", 1, units=4)])[1]
    assert measures.measure(few, "ece").verdict(0.3).word is None
    assert "fewer than 20 videos" in measures.measure(few, "ece").interval.reason


def test_by_class_has_a_table_of_each() -> None:
    rows = aggregate(measured("a", 2))
    tables = _per_class.tables(rows, context())
    assert list(tables) == ["by_class", "by_class_precision", "by_class_recall"]
    drawn = [record.confusion for record in records_of(rows)]
    expected = np.mean([np.diagonal(counts) / counts.sum(axis=0) for counts in drawn], axis=0)
    assert [line["a"] for line in tables["by_class_precision"].raw] == pytest.approx(list(100 * expected))


def records_of(rows):
    """The confusion matrices again, as `measured` drew them."""
    for seed in range(rows[0].seeds):
        rng = np.random.default_rng(seed)
        total = np.zeros((3, 3))
        for _ in range(24):
            total += np.diag(rng.integers(60, 70, 3)) + rng.integers(5, 15, (3, 3))
            rng.integers(90, 110, 15)
            rng.integers(5, 10, 15)
        yield RunRecord("f", {"v": total.astype(np.int64)}, {})
