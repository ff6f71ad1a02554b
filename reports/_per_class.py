"""IoU of every class for every row, from the rows' sums by unit.

Shapes: U units, K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.results import stats
from harness.results.rows import CellResult, Context, Row
from harness.results.table import Table, unique

NONE = "–"
Scores = NDArray[np.float64]


def share(rows: Sequence[Row]) -> Scores | None:
    """Return each class's share of the labelled pixels, in percent.  # (K,)"""
    for sums in (sums for row in rows for sums in row.sums):
        truth: Scores = sums.sums[:, 1].sum(axis=0)
        part: Scores = 100 * truth / max(truth.sum(), 1)
        return part
    return None


def names(context: Context, classes: int) -> list[str]:
    """Class names; numbers where the data set is not at hand."""
    names = context.evidence.classes
    return list(names) if len(names) == classes else [f"class {index}" for index in range(classes)]


def tables(rows: Sequence[Row], context: Context) -> dict[str, Table | None]:
    """Return the tables by class: of IoU, and of what else a metric of the rows says by class."""
    by_class: dict[str, Table | None] = {"by_class": table(rows, context)}
    headers = dict.fromkeys(header for row in rows for run in row.done for header in of_metrics(run))
    for header in headers:
        numbers = {row.cell: [of_metrics(run)[header] for run in row.done if header in of_metrics(run)] for row in rows}
        means = {cell: np.asarray(np.mean(values, axis=0)) for cell, values in numbers.items() if values}
        by_class[f"by_class_{header}"] = table(rows, context, header, means)
    return by_class


def of_metrics(run: CellResult) -> dict[str, Scores]:
    """Return what a run's metrics say by class, in percent, by header."""
    every = [totals.metric.by_class(totals.total) for totals in run.totals.values()]
    return {header: 100 * values for each in every for header, values in each.items()}


def table(
    rows: Sequence[Row], context: Context, header: str = "IoU", means: Mapping[str, Scores] | None = None
) -> Table | None:
    """Return one row a class, one column a cell that is done; None where no matrices are at hand."""
    labels = {row.cell: row.label for row in rows}
    iou = means or {row.cell: values for row in rows if (values := stats.class_iou(row.sums)) is not None}
    part = share(rows)
    if not iou or part is None or len({len(values) for values in iou.values()}) > 1:
        return None
    classes = names(context, len(part))
    several = all(row.seeds > 1 for row in rows if row.cell in iou)  # one seed gives no order
    lines, raw, bold = [], [], set()
    for index, name in enumerate(classes):
        numbers = [float(values[index]) for values in iou.values()]
        texts = [NONE if np.isnan(value) else f"{value:.1f}" for value in numbers]
        lines.append((name, f"{part[index]:.2f} %", *texts))
        best = max((round(value, 1) for value in numbers if not np.isnan(value)), default=None)
        if len(iou) > 1 and best is not None and several:
            bold |= {(index, column + 2) for column, value in enumerate(numbers) if round(value, 1) == best}
        unrounded = {cell: None if np.isnan(value) else value for cell, value in zip(iou, numbers, strict=True)}
        raw.append({"class": name, "pixels_percent": float(part[index]), **unrounded})
    absent = sum(np.isnan(next(iter(iou.values()))))
    notes = [f"{header} in percent, mean over seeds; pixels: the class's share of the labelled pixels."]
    if absent and means is None:
        notes.append(f"{absent} of {len(classes)} classes have no pixel in this split and are excluded from mIoU.")
    return Table(
        f"{context.title}: {header} by class",
        ("Class", "pixels", *unique([labels[cell] for cell in iou], taken=("Class", "pixels"))),
        tuple(lines),
        tuple(notes),
        "lr" + "r" * len(iou),
        frozenset(bold),
        tuple(raw),
    )
