"""mIoU against the memory momentum m, one curve per schedule: the table of `comparison` with a summary above it.

m and the schedule are read from a cell's name, SCHEDULE_MMM with m in thousandths; other cells stand in the table only.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from harness.results import power as powers
from harness.results import stats
from harness.results.figure import Figure
from harness.results.frame import from_frame
from harness.results.paper import count
from harness.results.rows import Context, Row
from harness.results.table import Report
from reports import comparison
from reports._style import MUTED, SPARE, canvas, house
from reports.comparison import number, signed

if TYPE_CHECKING:
    import matplotlib.figure


class Point(NamedTuple):
    """A row that has a number, at its m."""

    momentum: float
    schedule: str
    row: Row
    miou: float


def render(frame: pd.DataFrame, context: Context) -> Report:
    """Return the table, a sentence and, where there is something to draw, the curve."""
    report = comparison.render(frame, context)
    points = [point for row in from_frame(frame, context) if (point := locate(row)) is not None]
    if len(points) < 2:
        return report
    figures = {**report.figures, "momentum": curve(points)}
    return replace(report, notes=(*report.notes, sentence(points)), figures=figures)


def locate(row: Row) -> Point | None:
    """Return a row's point on the curve; None without a number, or for a cell that is not named after m."""
    name = re.fullmatch(r"([a-z]+)_(\d+)", row.cell)
    return None if name is None or row.miou is None else Point(int(name[2]) / 1000, name[1], row, row.miou)


def sentence(points: list[Point]) -> str:
    """Return the best configuration, its lead, and whether noise could make it, the best of several being chosen.

    One seed gives no order, so no best is named.
    """
    default = default_row(points)
    best, worst = (choose(points, key=lambda point: point.miou).row for choose in (max, min))
    if max(point.row.seeds for point in points) < 2:
        ends = f"{number(worst.miou)} ({worst.label}) and {number(best.miou)} ({best.label})"
        return f"{count(len(points), 'configuration')} between {ends} mIoU, one seed each: they cannot be ranked."
    head = f"Best of {count(len(points), 'configuration')}: {best.label}, {number(best.miou)} mIoU"
    if default is None:
        return f"{head}."
    if best is default:
        return f"{head}, which is the default."
    lead = best.gain.mean
    comparison = f"{head}, {signed(lead)} over {default.label}"
    noise = stats.lead(default.sd, default.seeds, len(points) - 1, best.gain.seeds)
    if noise is None or lead is None:
        return f"{comparison}; the default has one seed, so the lead expected from noise alone is unknown."
    equal = count(len(points) - 1, "equal configuration")
    much = f"the best of {equal} leads by up to {noise:.2f}, by the spread over {count(default.seeds, 'seed')}"
    return f"{comparison}; {much}" + (": not distinguishable." if abs(lead) <= noise else ".")


def seed_noise(points: list[Point]) -> tuple[float, str]:
    """Return the standard deviation of one row's mIoU over seeds, and where it is from: the default, else a prior."""
    default = default_row(points)
    if default is not None and default.sd is not None:
        return default.sd / default.seeds**0.5, f"default ± {default.sd / default.seeds**0.5:.2f}, its standard error"
    return powers.PRIOR_SEEDS, f"± {powers.PRIOR_SEEDS:g}, seed noise as assumed: one seed measures none"


def default_row(points: list[Point]) -> Row | None:
    """Return the row that the others are measured against; None where it has no number."""
    return next((point.row for point in points if point.row.baseline is None), None)


def curve(points: list[Point]) -> Figure:
    """Mean over seeds against m; bands are the standard deviation over seeds, bars the intervals.

    The grey band is the noise between seeds around the default: the axis always holds it.
    """
    schedules = sorted({point.schedule for point in points})
    groups = {name: sorted((p for p in points if p.schedule == name), key=lambda p: p.momentum) for name in schedules}
    default = default_row(points)
    middle = points[0].miou if default is None or default.miou is None else default.miou
    noise, words = seed_noise(points)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7, 3.6)
            axis.set_xscale("log")
            axis.axhspan(middle - noise, middle + noise, color=MUTED, alpha=0.18, lw=0, label=words)
            for (schedule, some), colour in zip(groups.items(), SPARE, strict=False):
                momenta, means = [p.momentum for p in some], [p.miou for p in some]
                axis.plot(momenta, means, "o-", color=colour, label=schedule)
                spreads = [p.row.sd or 0 for p in some]
                low, high = ([m + sign * sd for m, sd in zip(means, spreads, strict=True)] for sign in (-1, 1))
                axis.fill_between(momenta, low, high, color=colour, alpha=0.15, lw=0)
                for point in some:
                    if point.row.interval.low is not None:
                        ends = point.row.interval[:2]
                        axis.plot([point.momentum] * 2, ends, color=colour, lw=1, alpha=0.6)
            axis.set_xticks(
                sorted({p.momentum for p in points}), [f"{m:g}" for m in sorted({p.momentum for p in points})]
            )
            axis.minorticks_off()
            axis.set(xlabel="m, the weight of the new value", ylabel="mIoU (%)", title="mIoU against m")
            figure.legend(loc="outside lower left", ncols=3)
            return figure

    texts = (
        f"{schedule}: " + ", ".join(f"{point.momentum:g} {number(point.miou)}" for point in some)
        for schedule, some in groups.items()
    )
    return Figure(
        "mIoU against the memory momentum m",
        f"mIoU by m under each schedule. {'; '.join(texts)}. Grey band around {number(middle)}: {words}.",
        draw,
    )
