"""Stages beside the paper's: the gain of each over stage 0, the share of pixels it changes, and early exits.

The table of `comparison`, with the stage in a column of its own.
"""

import pandas as pd

from harness.results.rows import Context, Row
from harness.results.table import Report
from reports import comparison
from reports.comparison import NONE, Column

WHY = (
    "Why stages change so little: Eqs. 5-6 use only P's class counts per window, not positions, so a stage has an "
    "effect only if these counts change."
)
COLUMNS = (
    "Changed: share of pixels whose class differs from the previous stage (with P = ground truth: than at stage 0). "
    "Early exit: share of windows whose class counts did not change, so that their logits are exactly the same."
)


def render(frame: pd.DataFrame, context: Context) -> Report:
    """The table of one experiment, from its part of the results frame."""
    return comparison.render(frame, context, arrange, (WHY, COLUMNS))


def arrange(columns: list[Column]) -> list[Column]:
    """The method by name, the stage where epochs would stand, and at the end what the stage did."""
    own = {
        "Method": Column("Method", "l", lambda row: str(row.method if row.stage else row.label)),
        "Epochs": Column("Inference Stage", "l", stage),
    }
    effect = [
        Column("changed", "r", lambda row: percent(row.moved)),
        Column("early exit", "r", lambda row: percent(row.exited)),
    ]
    return [own.get(column.header, column) for column in columns] + effect


def stage(row: Row) -> str:
    """As the paper writes it; masks of others have none."""
    return {"truth": "P = ground truth", None: NONE}.get(row.stage, str(row.stage))


def percent(value: float | None) -> str:
    """Two decimals: what a stage moves is often less than a percent."""
    return NONE if value is None else f"{value:.2f} %"
