"""One line per method: mIoU, its interval and its gain."""

import pandas as pd

from harness.results.frame import summary
from harness.results.rows import Context
from harness.results.table import Report, Table


def render(frame: pd.DataFrame, context: Context) -> Report:
    """Return the tables and figures; `frame` has a line per cell and seed, `summary` one per cell."""
    lines = summary(frame, context)
    rows = [
        (line.label, line.status, number(line.miou), interval(line), number(line.gain)) for line in lines.itertuples()
    ]
    columns = ("Method", "Status", "mIoU", "95% interval", "gain")
    table = Table(
        context.title,
        columns,
        tuple(rows),
        align="llrrr",
        raw=tuple(lines[["cell", "miou", "gain"]].to_dict("records")),
    )
    return Report(context.title, {context.experiment: table}, command=context.command)


def number(value: float | None) -> str:
    """Two decimals; a dash for an unknown value."""
    return "–" if value is None else f"{value:.2f}"


def interval(line) -> str:
    """Both ends; a dash without an interval."""
    return "–" if line.low is None else f"[{number(line.low)}, {number(line.high)}]"
