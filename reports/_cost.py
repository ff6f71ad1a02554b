"""What a row's frame costs beside its mIoU: columns of a table of its own, and of the main one by `report.columns`."""

from collections.abc import Callable, Sequence

from harness.results.evidence import FrameCost
from harness.results.rows import Context, Row
from harness.results.table import Table

NONE = "–"
NOTES = (
    "Per frame, with all windows, views, members and stages. FLOPs: two per multiply-add, ignoring early exits.",
    "Frames per second: predictions only, on one rank, mean over seeds. Memory: peak of a rank, shared by rows "
    "that were evaluated in one pass.",
)
COLUMNS: dict[str, tuple[str, Callable[[FrameCost], float | None], str]] = {  # a key -> header, value, its form
    "parameters": ("Parameters (M)", lambda cost: scaled(cost.parameters, 1e6), ".2f"),
    "gflops": ("GFLOPs per frame", lambda cost: scaled(cost.flops, 1e9), ".4g"),
    "fps": ("Frames/s", lambda cost: cost.frames_per_second, ".3g"),
    "memory": ("Memory (GiB)", lambda cost: scaled(cost.peak, 2**30), ".2f"),
}


def scaled(value: float | None, unit: float) -> float | None:
    """Return a number in a unit."""
    return None if value is None else value / unit


def text(key: str, cost: FrameCost) -> str:
    """Return a column's cell."""
    _, value, form = COLUMNS[key]
    number = value(cost)
    return NONE if number is None else f"{number:{form}}"


def table(rows: Sequence[Row], context: Context) -> Table | None:
    """One row a cell; None where no cost is known, as of results of before 0.2."""
    costs = [context.cost(row) for row in rows]
    if not any(cost.parameters for cost in costs):
        return None
    headers = [header for header, _, _ in COLUMNS.values()]
    return Table(
        f"{context.title}: cost",
        ("Method", *headers, "Device"),
        tuple(
            (row.label, *(text(key, cost) for key in COLUMNS), ", ".join(cost.devices) or NONE)
            for row, cost in zip(rows, costs, strict=True)
        ),
        NOTES,
        "l" + "r" * len(COLUMNS) + "l",
        raw=tuple(
            {"cell": row.cell, **vars(cost), "devices": ", ".join(cost.devices)}
            for row, cost in zip(rows, costs, strict=True)
        ),
    )
