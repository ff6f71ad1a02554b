"""IoU of every class for every row, from the sums by unit that the results frame holds.

Shapes: U units, K classes.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.results.rows import Context
from harness.results.stats import UnitSums
from harness.results.table import Table

NONE = "–"
Scores = NDArray[np.float64]


def scores(own: pd.DataFrame, cell: str) -> Scores | None:
    """IoU in percent, the mean over seeds that are done; nan for a class without truth.  # (K,)"""
    rows = own[(own["cell"] == cell) & (own["status"] == "done")]
    known = [sums for sums in rows["sums"] if isinstance(sums, UnitSums)]
    found = []
    for sums in known:
        hit, truth, predicted = sums.sums.sum(axis=0)  # (K,) each
        nothing = np.full_like(hit, np.nan)
        found.append(100 * np.divide(hit, truth + predicted - hit, out=nothing, where=truth > 0))
    return np.mean(found, axis=0) if found else None


def share(own: pd.DataFrame) -> Scores | None:
    """Each class's part of the labelled pixels, in percent.  # (K,)"""
    for sums in own["sums"]:
        if isinstance(sums, UnitSums):
            truth = sums.sums[:, 1].sum(axis=0)
            percent: Scores = 100 * truth / max(truth.sum(), 1)
            return percent
    return None


def names(context: Context, classes: int) -> list[str]:
    """Class names; numbers where the data set is not at hand."""
    known = context.evidence.classes
    return list(known) if len(known) == classes else [f"class {index}" for index in range(classes)]


def table(own: pd.DataFrame, context: Context) -> Table | None:
    """One row a class, one column a cell that is done; None where no matrices are at hand."""
    labels = {str(row["cell"]): str(row["label"]) for _, row in own.iterrows()}
    found = {cell: iou for cell in labels if (iou := scores(own, cell)) is not None}
    part = share(own)
    if not found or part is None or len({len(iou) for iou in found.values()}) > 1:
        return None
    classes = names(context, len(part))
    kept = list(found)
    columns = ["Class", "pixels", *unique([labels[cell] for cell in kept])]
    rows, raw, bold = [], [], set()
    for index, name in enumerate(classes):
        values = [float(found[cell][index]) for cell in kept]
        shown = [NONE if np.isnan(value) else f"{value:.1f}" for value in values]
        rows.append((name, f"{part[index]:.2f} %", *shown))
        best = max((round(value, 1) for value in values if not np.isnan(value)), default=None)
        if len(kept) > 1 and best is not None:
            bold |= {(index, place + 2) for place, value in enumerate(values) if round(value, 1) == best}
        raw.append(record(name, float(part[index]), dict(zip(kept, values, strict=True))))
    absent = sum(np.isnan(found[kept[0]]))
    notes = ["IoU in percent, mean over seeds; pixels: the class's part of the labelled pixels."]
    notes += [f"{absent} of {len(classes)} classes have no pixel in this split and are left out of mIoU."] * bool(
        absent
    )
    return Table(
        f"{context.title}: IoU by class",
        tuple(columns),
        tuple(rows),
        tuple(notes),
        "lr" + "r" * len(kept),
        frozenset(bold),
        tuple(raw),
    )


def record(name: str, pixels: float, values: dict[str, float]) -> dict[str, Any]:
    """A class's row, unrounded."""
    return {"class": name, "pixels_percent": pixels} | {k: None if np.isnan(v) else v for k, v in values.items()}


def unique(labels: list[str]) -> list[str]:
    """Labels as headers: one that stands twice, or is a header already, is numbered."""
    seen: dict[str, int] = {"Class": 1, "pixels": 1}
    made = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        made.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return made
