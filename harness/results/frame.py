"""Results as a pandas frame: what a report file of a person receives, one line per cell and seed."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import pandas as pd

from harness.results import paper
from harness.results.means import null
from harness.results.rows import CellResult, Context, Row, aggregate, in_order

KEPT = tuple(f.name for f in fields(CellResult) if f.name != "sums")
COLUMNS = (*KEPT, "sums", "paper_miou", "paper_gain")  # sums: stats.UnitSums, or None
NUMBERS = ("miou", "moved", "exited", "paper_miou", "paper_gain")
COUNTS = ("seed", "epochs", "units", "order", "bn_group")
SUMMARY = (
    *("experiment", "cell", "label", "method", "backbone", "epochs", "order", "baseline", "status", "reason"),
    *("planned", "seeds", "units", "miou", "sd", "low", "high", "interval_of", "sd_seeds", "sd_units"),
    *("no_interval", "described", "gain", "gain_sd", "gain_seeds", "gain_low", "gain_high"),
    *("gain_interval_of", "gain_sd_seeds", "gain_sd_units"),
    *("paper_miou", "paper_gain", "verdict", "changed", "stage", "moved", "exited", "metrics"),
)


def to_frame(results: Iterable[CellResult]) -> pd.DataFrame:
    """Return the frame that report files receive (COLUMNS): a line per cell and seed, with the paper's numbers."""
    records = []
    for each in in_order(results):
        published = paper.published(each.experiment, each.cell)
        numbers = {key: getattr(published, key.removeprefix("paper_"), None) for key in ("paper_miou", "paper_gain")}
        records.append({**{key: getattr(each, key) for key in (*KEPT, "sums")}, **numbers})
    frame = pd.DataFrame(records, columns=list(COLUMNS), dtype=object)
    return frame.astype({**dict.fromkeys(NUMBERS, "float64"), **dict.fromkeys(COUNTS, "Int64")})


def from_frame(frame: pd.DataFrame, context: Context) -> list[Row]:
    """Return the rows of the context's experiment: the inverse of `to_frame`, then `aggregate`."""
    own = frame[frame["experiment"] == context.experiment]
    return aggregate(map(_result, own.to_dict("records")), context)


def _result(line: Mapping[Any, Any]) -> CellResult:
    values = {key: None if line[key] is pd.NA else null(line[key]) for key in KEPT}
    miou = float(line["miou"]) if line["status"] == "done" else None
    return CellResult(**{**values, "miou": miou, "sums": line["sums"]})


def summary(frame: pd.DataFrame, context: Context | None = None) -> pd.DataFrame:
    """Return one line per cell (SUMMARY) of a frame of results.

    low, high, gain_low and gain_high are those of results/stats, over `interval_of` and `gain_interval_of`; null with a
    reason in `no_interval`. `verdict` is null without a context.
    """
    rows = aggregate(map(_result, frame.to_dict("records")), context)
    return pd.DataFrame([row.values(SUMMARY) for row in rows], columns=list(SUMMARY), dtype=object)
