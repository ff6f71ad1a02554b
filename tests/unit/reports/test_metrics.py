"""The table of other metrics: what is there, in which variant, and nothing where there is only mIoU."""

import pytest

from harness.results.rows import CellResult, Context, aggregate
from harness.results.table import Table
from reports import _metrics

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
