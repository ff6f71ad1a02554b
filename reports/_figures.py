"""The figures that reports share, each a value with its alternative text; all of them in the house style."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.results.evidence import Curve, Memory
from harness.results.figure import Figure
from harness.results.rows import Context, difference
from harness.results.table import signed
from reports import _per_class
from reports._style import MUTED, PAPER, SEQUENCE, canvas, colours, house, whiskers, zero

if TYPE_CHECKING:
    import matplotlib.figure

CLASSES = 24  # rows of the figure of gains by class
TICKS = 40  # classes up to which a map names them
MARKS = "os^Dv<>P"  # of rows of one method, which share its colour
SMOOTH = 0.05  # of a curve's points are averaged for the line


def every(own: pd.DataFrame, cells: Sequence[Mapping[str, Any]], context: Context) -> dict[str, Figure]:
    """All figures that the results and their evidence can fill."""
    found = {
        "gains": gains(own, cells, context),
        "stages": stages(cells, context),
        "gains_by_class": gains_by_class(own, cells, context),
        "learning_curves": learning_curves(context.evidence.curves),
        "memory_similarity": memory_similarity(context.evidence.memories, context.evidence.classes),
        "memory_drift": memory_drift(context.evidence.memories),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def gains(own: pd.DataFrame, cells: Sequence[Mapping[str, Any]], context: Context) -> Figure | None:
    """Every row's gain over its baseline with its interval, seed by seed, and the paper's where it may stand there."""
    rows = [cell for cell in cells if cell["gain"] is not None]
    if not rows:
        return None
    palette = colours(str(cell["method"]) for cell in rows)
    by_seed = {c["cell"]: difference(own, context.experiment, c["cell"], c["baseline"]).gains for c in rows}
    theirs = {c["cell"]: c["paper_gain"] for c in rows if context.comparable and c["paper_gain"] is not None}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 0.9 + 0.52 * len(rows))
            zero(axis)
            for place, cell in enumerate(rows):
                colour = palette[str(cell["method"])]
                seeds = by_seed[cell["cell"]]
                if len(seeds) > 1:
                    axis.plot(seeds, [place + 0.24] * len(seeds), "|", color=colour, alpha=0.7, markersize=7)
                whiskers(axis, place, cell["gain"], cell["gain_low"], cell["gain_high"], colour)
                axis.annotate(
                    signed(cell["gain"]),
                    (cell["gain"], place),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                    color=colour,
                )
                if cell["cell"] in theirs:
                    axis.plot(theirs[cell["cell"]], place, "D", color=PAPER, markerfacecolor="none", markersize=7)
            axis.set_yticks(range(len(rows)), [str(cell["label"]) for cell in rows])
            axis.set_ylim(len(rows) - 0.4, -0.7)
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.12)
            axis.set_xlabel("gain in mIoU, points")
            return figure

    marks = f"bar: 95% interval{spoken(rows, 'gain_interval_of')}; hollow point: no interval"
    marks += "; ticks: single seeds" if any(len(seeds) > 1 for seeds in by_seed.values()) else ""
    marks += "; diamond: the paper's gain" if theirs else ""
    alt = "; ".join(said(cell, theirs.get(cell["cell"])) for cell in rows)
    return Figure(f"Gain over the baseline ({marks})", f"Points with intervals. {alt}.", draw)


def spoken(cells: Sequence[Mapping[str, Any]], key: str) -> str:
    """' of seeds and videos': what the rows' intervals speak of; empty without any."""
    known = dict.fromkeys(str(cell[key]) for cell in cells if cell[key] is not None)
    return f" of {' or '.join(known)}" if known else ""


def said(cell: Mapping[str, Any], theirs: float | None) -> str:
    """A row of the gains in words."""
    low, high = cell["gain_low"], cell["gain_high"]
    bounds = "" if low is None else f", interval {signed(low)} to {signed(high)}"
    paper = "" if theirs is None else f", the paper's {signed(theirs)}"
    return f"{cell['label']} {signed(cell['gain'])}{bounds}{paper}"


def stages(cells: Sequence[Mapping[str, Any]], context: Context) -> Figure | None:
    """mIoU over the stages of inference with its interval, a line a method; the paper's where it may stand beside."""
    lines: dict[str, dict[int, Mapping[str, Any]]] = {}
    for cell in cells:
        if cell["miou"] is not None and (found := re.fullmatch(r"stage(\d+)", str(cell["stage"]))):
            lines.setdefault(str(cell["method"]), {})[int(found[1])] = cell
    lines = {method: dict(sorted(line.items())) for method, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    theirs = {
        stage: cell["paper_miou"]
        for line in lines.values()
        for stage, cell in line.items()
        if context.comparable and cell["paper_miou"] is not None
    }
    palette = colours(lines)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 3)
            for number, (method, line) in enumerate(lines.items()):
                aside = 0.04 * (number - (len(lines) - 1) / 2)  # intervals of two methods do not hide one another
                places = [stage + aside for stage in line]
                axis.plot(places, [cell["miou"] for cell in line.values()], color=palette[method], lw=1.2, label=method)
                for place, cell in zip(places, line.values(), strict=True):
                    whiskers(axis, place, cell["miou"], cell["low"], cell["high"], palette[method], upright=True)
            if theirs:
                axis.plot(
                    list(theirs), list(theirs.values()), "D--", color=PAPER, markerfacecolor="none", label="the paper"
                )
            axis.set_xticks(sorted({stage for line in lines.values() for stage in line}))
            axis.set_xlabel("stage")
            axis.set_ylabel("mIoU")
            axis.legend()
            return figure

    alt = "; ".join(
        f"{method}: " + ", ".join(f"stage {stage} {cell['miou']:.2f}" for stage, cell in line.items())
        for method, line in lines.items()
    )
    shown = spoken([cell for line in lines.values() for cell in line.values()], "interval_of")
    return Figure(f"mIoU by stage of inference (bar: 95% interval{shown})", f"Lines over stages. {alt}.", draw)


def gains_by_class(own: pd.DataFrame, cells: Sequence[Mapping[str, Any]], context: Context) -> Figure | None:
    """IoU by class of every row less that of its baseline: the classes that move most, either way."""
    found = {}
    for cell in cells:
        ours, base = (_per_class.scores(own, str(name)) for name in (cell["cell"], cell["baseline"]))
        if ours is not None and base is not None and len(ours) == len(base):
            found[str(cell["cell"])] = ours - base
    if not found:
        return None
    labels = {str(cell["cell"]): str(cell["label"]) for cell in cells}
    methods = {str(cell["cell"]): str(cell["method"]) for cell in cells}
    mean = np.mean(list(found.values()), axis=0)  # (K,)
    names = _per_class.names(context, len(mean))
    order = [int(index) for index in np.argsort(-mean) if np.isfinite(mean[index])]
    if not order:
        return None
    shown = order if len(order) <= CLASSES else order[: CLASSES // 2] + order[-CLASSES // 2 :]
    palette = colours(methods[cell] for cell in found)
    twins = [[cell for cell in found if methods[cell] == method] for method in dict.fromkeys(methods[c] for c in found)]
    marks = {cell: MARKS[place % len(MARKS)] for cells in twins for place, cell in enumerate(cells)}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 1.1 + 0.25 * len(shown))
            zero(axis)
            for cell, values in found.items():
                look = {"color": palette[methods[cell]], "marker": marks[cell], "ls": "", "alpha": 0.9}
                axis.plot(values[shown], range(len(shown)), label=labels[cell], **look)
            if len(shown) < len(order):
                axis.axhline(CLASSES // 2 - 0.5, color=MUTED, lw=0.8, ls=":")
            axis.set_yticks(range(len(shown)), [names[index] for index in shown])
            axis.set_ylim(len(shown) - 0.4, -0.6)
            axis.set_xlabel("gain in IoU, points")
            figure.legend(loc="outside upper left", ncols=4)
            return figure

    which = (
        "" if len(shown) == len(order) else f", the {CLASSES // 2} best and the {CLASSES // 2} worst of {len(order)}"
    )
    ends = [f"{names[index]} {signed(mean[index], 1)}" for index in (*order[:3], *order[-3:])]
    return Figure(
        f"Gain by class{which}",
        f"Dots by class and method. Mean gain over methods, most to least: {', '.join(dict.fromkeys(ends))}.",
        draw,
    )


def learning_curves(curves: Sequence[Curve]) -> Figure | None:
    """The training loss, one line a training: thin as it was, thick as a running mean."""
    if not curves:
        return None
    palette = colours(curve.decoder for curve in curves)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 3.2)
            named = set()
            for curve in curves:
                steps, loss = np.array(curve.steps), np.array(curve.loss)
                width = max(1, round(SMOOTH * len(loss)))
                smooth = pd.Series(loss).rolling(width, min_periods=1, center=True).mean()
                label = None if curve.decoder in named else curve.label
                named.add(curve.decoder)
                axis.plot(steps, loss, color=palette[curve.decoder], alpha=0.25, lw=0.8)
                axis.plot(steps, smooth, color=palette[curve.decoder], label=label, marker="o" if len(loss) < 3 else "")
            axis.set_xlabel("iteration")
            axis.set_ylabel("loss")
            axis.legend()
            return figure

    ends = [f"{c.label} seed {c.seed} from {c.loss[0]:.2f} to {c.loss[-1]:.2f}" for c in curves]
    return Figure("Training loss (thick: running mean)", f"Lines over iterations: {'; '.join(ends)}.", draw)


def memory_similarity(memories: Sequence[Memory], classes: Sequence[str]) -> Figure | None:
    """How alike the classes' rows of M are at the end, for the first seed of each decoder that has one."""
    first = list({memory.decoder: memory for memory in reversed(memories)}.values())[::-1]
    if not first:
        return None
    maps = [np.array(memory.similarity, dtype=float) for memory in first]  # None becomes nan
    names = list(classes) if len(classes) == len(maps[0]) else [str(index) for index in range(len(maps[0]))]

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axes = canvas(0.6 + 4.2 * len(maps), 4.2, 1, len(maps), squeeze=False, sharey=True)
            few = len(names) <= TICKS
            size = 8 if len(names) <= 20 else 5.5
            for axis, memory, values in zip(axes[0], first, maps, strict=True):
                image = axis.imshow(values, cmap=SEQUENCE, vmin=-0.2, vmax=1, interpolation="nearest")
                axis.set_title(f"{memory.label}, seed {memory.seed}")
                axis.grid(visible=False)
                if few:
                    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
                    axis.set_yticks(range(len(names)), names, fontsize=size)
            figure.colorbar(image, ax=axes, shrink=0.8, label="cosine", extend="min")
            return figure

    found = [f"{memory.label}: {closest(values, names)}" for memory, values in zip(first, maps, strict=True)]
    return Figure("How alike the classes are in M at the end of training", f"Maps. {'; '.join(found)}.", draw)


def closest(values: np.ndarray, names: Sequence[str]) -> str:
    """The pair of classes with the most similar rows, in words."""
    off = np.where(np.eye(len(values), dtype=bool) | ~np.isfinite(values), -np.inf, values)
    row, column = map(int, np.unravel_index(int(off.argmax()), off.shape))
    if not np.isfinite(off[row, column]):
        return "no two classes were seen"
    return f"closest are {names[row]} and {names[column]} at {values[row, column]:.2f}"


def memory_drift(memories: Sequence[Memory]) -> Figure | None:
    """How far M was from what it became, at every snapshot; none where there is only the end."""
    ways = [memory for memory in memories if sum(value is not None for value in memory.drift) > 1]
    if not ways:
        return None
    palette = colours(memory.decoder for memory in ways)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 2.8)
            named = set()
            for memory in ways:
                label = None if memory.label in named else memory.label
                named.add(memory.label)
                values = [np.nan if value is None else value for value in memory.drift]
                axis.plot(memory.steps, values, "o-", color=palette[memory.decoder], label=label, markersize=4)
            axis.set_xlabel("iteration")
            axis.set_ylabel("1 − cos(M, M at the end)")
            axis.set_ylim(bottom=0)
            axis.legend()
            return figure

    ends = [
        f"{memory.label} seed {memory.seed}: {first:.2f} at iteration {memory.steps[0]}"
        for memory in ways
        if (first := memory.drift[0]) is not None
    ]
    return Figure("How far M is from its end, mean over classes", f"Lines falling to 0. {'; '.join(ends)}.", draw)
