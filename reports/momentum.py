"""mIoU against the memory momentum m, a curve a schedule: the table of `comparison`, and what it amounts to above it.

m and the schedule are read from a cell's name, SCHEDULE_MMM with m in thousandths; other cells stand in the table only.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from harness.results import stats
from harness.results.figure import Figure
from harness.results.paper import count
from harness.results.rows import Context, null, summary
from harness.results.table import Report
from reports import comparison
from reports._style import SPARE, canvas, house
from reports.comparison import number, signed

if TYPE_CHECKING:
    import matplotlib.figure


class Point(NamedTuple):
    """A cell that has a number."""

    momentum: float
    schedule: str
    cell: dict[str, Any]  # a row of results.summary


def render(frame: pd.DataFrame, context: Context) -> Report:
    """The table, a sentence and, where there is something to draw, the curve."""
    made = comparison.render(frame, context)
    rows = summary(frame[frame["experiment"] == context.experiment], context).to_dict("records")
    cells = [{str(key): null(value) for key, value in row.items()} for row in rows]
    points = [point for cell in cells if cell["seeds"] and (point := place(cell)) is not None]
    if len(points) < 2:
        return made
    figures = {**made.figures, "momentum": curve(points)}
    return replace(made, notes=(*made.notes, sentence(points)), figures=figures)


def place(cell: dict[str, Any]) -> Point | None:
    """Where a cell stands on the curve; None for one that is not named after m."""
    found = re.fullmatch(r"([a-z]+)_(\d+)", str(cell["cell"]))
    return Point(int(found[2]) / 1000, found[1], cell) if found else None


def sentence(points: list[Point]) -> str:
    """The best cell, its lead, and whether noise could make it, the best of several being chosen."""
    base = next((point for point in points if point.cell["baseline"] is None), None)
    best = max(points, key=lambda point: point.cell["miou"])
    head = f"Best of {count(len(points), 'cell')}: {best.cell['label']}, {number(best.cell['miou'])} mIoU"
    if base is None:
        return f"{head}."
    if best is base:
        return f"{head}, which is the default."
    lead = best.cell["gain"]
    over = f"{head}, {signed(lead)} over {base.cell['label']}"
    noise = stats.lead(base.cell["sd"], base.cell["seeds"], len(points) - 1, best.cell["gain_seeds"])
    if noise is None or lead is None:
        return f"{over}; one seed, so the lead that noise alone gives is not known."
    equal = count(len(points) - 1, "equal cell")
    much = f"the best of {equal} leads by up to {noise:.2f}, by the spread over {count(base.cell['seeds'], 'seed')}"
    return f"{over}; {much}" + (": not distinguishable." if abs(lead) <= noise else ".")


def curve(points: list[Point]) -> Figure:
    """Mean over seeds against m; the band is the standard deviation over seeds, bars are their intervals."""
    schedules = sorted({point.schedule for point in points})
    groups = {one: sorted((p for p in points if p.schedule == one), key=lambda p: p.momentum) for one in schedules}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7, 3.6)
            axis.set_xscale("log")
            for (schedule, some), colour in zip(groups.items(), SPARE, strict=False):
                momenta, means = [p.momentum for p in some], [p.cell["miou"] for p in some]
                axis.plot(momenta, means, "o-", color=colour, label=schedule)
                spreads = [p.cell["sd"] or 0 for p in some]
                low, high = ([m + sign * sd for m, sd in zip(means, spreads, strict=True)] for sign in (-1, 1))
                axis.fill_between(momenta, low, high, color=colour, alpha=0.15, lw=0)
                for point in some:
                    if point.cell["low"] is not None:
                        ends = [point.cell["low"], point.cell["high"]]
                        axis.plot([point.momentum] * 2, ends, color=colour, lw=1, alpha=0.6)
            axis.set_xticks(
                sorted({p.momentum for p in points}), [f"{m:g}" for m in sorted({p.momentum for p in points})]
            )
            axis.minorticks_off()
            axis.set(xlabel="m, the weight of the new value", ylabel="mIoU (%)", title="mIoU against m")
            axis.legend(title="schedule")
            return figure

    said = (
        f"{schedule}: " + ", ".join(f"{point.momentum:g} {number(point.cell['miou'])}" for point in some)
        for schedule, some in groups.items()
    )
    return Figure("mIoU against the memory momentum m", "mIoU by m under each schedule. " + "; ".join(said) + ".", draw)
