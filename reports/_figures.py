"""The figures that reports share, each a value with its alternative text; all of them in the house style."""

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.results import stats
from harness.results.evidence import Curve, Memory
from harness.results.figure import Figure
from harness.results.rows import Context, Row
from harness.results.stats import Interval
from harness.results.table import signed
from reports import _per_class
from reports._style import MUTED, PAPER, SEQUENCE, canvas, colours, house, whiskers, zero

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

CLASSES = 24  # rows of the figure of gains by class
TICKS = 40  # classes up to which a map names them
MARKS = "os^Dv<>P"  # of rows of one method, which share its colour
SMOOTH = 0.05  # of a curve's points are averaged for the line

Line = tuple[Curve, Sequence[int], Sequence[float]]  # a training, iterations, values


def every(rows: Sequence[Row], context: Context) -> dict[str, Figure]:
    """All figures that the results and their evidence can fill."""
    figures = {
        "gains": gains(rows, context),
        "stages": stages(rows, context),
        "cost": cost(rows, context),
        "gains_by_class": gains_by_class(rows, context),
        "learning_curves": learning_curves(context.evidence.curves),
        "total_loss": total_loss(context.evidence.curves),
        "memory_similarity": memory_similarity(context.evidence.memories, context.evidence.classes),
        "memory_drift": memory_drift(context.evidence.memories),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def gains(rows: Sequence[Row], context: Context) -> Figure | None:
    """Every row's gain over its baseline with its interval, seed by seed, and the paper's where it may stand there."""
    points = [(row, row.gain.mean) for row in rows if row.gain.mean is not None]
    if not points:
        return None
    palette = colours(str(row.method) for row, _ in points)
    theirs = {row.cell: row.paper_gain for row, _ in points if context.comparable and row.paper_gain is not None}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 0.9 + 0.52 * len(points))
            zero(axis)
            for height, (row, mean) in enumerate(points):
                colour = palette[str(row.method)]
                if row.gain.seeds > 1:
                    seeds = list(row.gain.by_seed.values())
                    axis.plot(seeds, [height + 0.24] * len(seeds), "|", color=colour, alpha=0.7, markersize=7)
                whiskers(axis, height, mean, row.gain.interval, colour)
                axis.annotate(
                    signed(mean),
                    (mean, height),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                    color=colour,
                )
                if row.cell in theirs:
                    axis.plot(theirs[row.cell], height, "D", color=PAPER, markerfacecolor="none", markersize=7)
            axis.set_yticks(range(len(points)), [row.label for row, _ in points])
            axis.set_ylim(len(points) - 0.4, -0.7)
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.12)
            axis.set_xlabel("gain in mIoU, points")
            return figure

    marks = f"bar: 95% interval{spoken([row.gain.interval for row, _ in points])}; hollow point: no interval"
    marks += "; ticks: single seeds" if any(row.gain.seeds > 1 for row, _ in points) else ""
    marks += "; diamond: the paper's gain" if theirs else ""
    alt = "; ".join(in_words(row, mean, theirs.get(row.cell)) for row, mean in points)
    return Figure(f"Gain over the baseline ({marks})", f"Points with intervals. {alt}.", draw)


def spoken(intervals: Sequence[Interval]) -> str:
    """' of seeds and videos': what the intervals speak of; empty without any."""
    kinds = dict.fromkeys(interval.of for interval in intervals if interval.of is not None)
    return f" of {' or '.join(kinds)}" if kinds else ""


def in_words(row: Row, mean: float, theirs: float | None) -> str:
    """A row of the gains as text."""
    low, high = row.gain.interval[:2]
    bounds = "" if low is None or high is None else f", interval {signed(low)} to {signed(high)}"
    paper = "" if theirs is None else f", the paper's {signed(theirs)}"
    return f"{row.label} {signed(mean)}{bounds}{paper}"


def stages(rows: Sequence[Row], context: Context) -> Figure | None:
    """mIoU over the stages of inference with its interval, a line a method; the paper's where it may stand beside."""
    lines: dict[str, dict[int, tuple[Row, float]]] = {}
    for row in rows:
        if row.miou is not None and (stage := re.fullmatch(r"stage(\d+)", str(row.stage))):
            lines.setdefault(str(row.method), {})[int(stage[1])] = row, row.miou
    lines = {method: dict(sorted(line.items())) for method, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    theirs = {
        stage: row.paper_miou
        for line in lines.values()
        for stage, (row, _) in line.items()
        if context.comparable and row.paper_miou is not None
    }
    palette = colours(lines)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 3)
            for number, (method, line) in enumerate(lines.items()):
                aside = 0.04 * (number - (len(lines) - 1) / 2)  # intervals of two methods do not hide one another
                xs = [stage + aside for stage in line]
                axis.plot(xs, [miou for _, miou in line.values()], color=palette[method], lw=1.2, label=method)
                for x, (row, miou) in zip(xs, line.values(), strict=True):
                    whiskers(axis, x, miou, row.interval, palette[method], upright=True)
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
        f"{method}: " + ", ".join(f"stage {stage} {miou:.2f}" for stage, (_, miou) in line.items())
        for method, line in lines.items()
    )
    spoken_of = spoken([row.interval for line in lines.values() for row, _ in line.values()])
    return Figure(f"mIoU by stage of inference (bar: 95% interval{spoken_of})", f"Lines over stages. {alt}.", draw)


def cost(rows: Sequence[Row], context: Context) -> Figure | None:
    """Return mIoU over the FLOPs of a frame, one mark a row with its interval; None where fewer than two are known."""
    points = [
        (row, row.miou, flops / 1e9)
        for row in rows
        if row.miou is not None and (flops := context.cost(row).flops) is not None
    ]
    if len(points) < 2:
        return None
    palette = colours(str(row.method) for row, _, _ in points)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 3.4)
            for (row, miou, gflops), mark in zip(points, itertools.cycle(MARKS)):
                style = {"color": palette[str(row.method)], "marker": mark, "ls": ""}
                axis.plot(gflops, miou, label=row.label, **style)
                if row.interval.low is not None and row.interval.high is not None:
                    axis.plot([gflops] * 2, [row.interval.low, row.interval.high], color=style["color"], lw=1.2)
            if max(x for *_, x in points) > 10 * min(x for *_, x in points):
                axis.set_xscale("log")
            axis.set_xlabel("GFLOPs per frame")
            axis.set_ylabel("mIoU (%)")
            figure.legend(loc="outside upper left", ncols=3)
            return figure

    texts = [f"{row.label} {miou:.2f} at {gflops:.4g}" for row, miou, gflops in points]
    return Figure("mIoU by FLOPs of a frame", f"Marks: {'; '.join(texts)} GFLOPs per frame.", draw)


def gains_by_class(rows: Sequence[Row], context: Context) -> Figure | None:
    """IoU by class of every row less that of its baseline: the classes that move most, either way."""
    by_cell = {row.cell: row for row in rows}
    gains = {}
    for row in rows:
        baseline = by_cell.get(row.baseline or "")
        ours, theirs = stats.class_iou(row.sums), None if baseline is None else stats.class_iou(baseline.sums)
        if ours is not None and theirs is not None and len(ours) == len(theirs):
            gains[row.cell] = ours - theirs
    if not gains:
        return None
    methods = {cell: str(by_cell[cell].method) for cell in gains}
    mean = np.mean(list(gains.values()), axis=0)  # (K,)
    names = _per_class.names(context, len(mean))
    order = [int(index) for index in np.argsort(-mean) if np.isfinite(mean[index])]
    if not order:
        return None
    shown = order if len(order) <= CLASSES else order[: CLASSES // 2] + order[-CLASSES // 2 :]
    palette = colours(methods.values())
    twins = [[cell for cell in gains if methods[cell] == method] for method in dict.fromkeys(methods.values())]
    marks = {cell: MARKS[number % len(MARKS)] for cells in twins for number, cell in enumerate(cells)}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 1.1 + 0.25 * len(shown))
            zero(axis)
            for cell, values in gains.items():
                style = {"color": palette[methods[cell]], "marker": marks[cell], "ls": "", "alpha": 0.9}
                axis.plot(values[shown], range(len(shown)), label=by_cell[cell].label, **style)
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
    """Return the main cross entropy and, where it was measured on the way, mIoU; one line a training."""
    losses: list[Line] = [(curve, curve.steps, curve.main) for curve in curves if curve.main]
    scores: list[Line] = [(c, [at for at, _ in c.scores], [miou for _, miou in c.scores]) for c in curves if c.scores]
    splits = " and ".join(dict.fromkeys(curve.split for curve, _, _ in scores))
    panels = [(losses, "main cross entropy", True), (scores, f"mIoU on {splits} (%)", False)]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return None

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axes = canvas(7.2, 2.9 * len(panels), len(panels), 1, squeeze=False, sharex=True)
            for axis, (lines, name, smooth) in zip(axes[:, 0], panels, strict=True):
                trajectories(axis, lines, smooth)
                axis.set_ylabel(name)
            axes[0, 0].legend()
            axes[-1, 0].set_xlabel("iteration")
            return figure

    ends = [in_words_of_curve(*line, "main cross entropy") for line in losses]
    ends += [in_words_of_curve(*line, "mIoU") for line in scores]
    titles = ["main cross entropy (thick: running mean)"] if losses else []
    titles += [f"mIoU on {splits}"] if scores else []
    title = " and ".join(titles)
    return Figure(title[0].upper() + title[1:] + " in training", f"Lines over iterations: {'; '.join(ends)}.", draw)


def total_loss(curves: Sequence[Curve]) -> Figure | None:
    """Return the weighted sum of all losses, one line a training; decoders of other auxiliary terms do not compare."""
    if not curves:
        return None
    lines = [(curve, curve.steps, curve.loss) for curve in curves]

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 3.2)
            trajectories(axis, lines, smooth=True)
            axis.set_xlabel("iteration")
            axis.set_ylabel("total loss")
            axis.legend()
            return figure

    ends = [in_words_of_curve(*line, "total loss") for line in lines]
    title = "Total training loss with auxiliary and coarse terms, not comparable between decoders (thick: running mean)"
    return Figure(title, f"Lines over iterations: {'; '.join(ends)}.", draw, folded=True)


def trajectories(axis: "Axes", lines: Sequence[Line], smooth: bool) -> None:
    """Draw values over iterations; with `smooth` thin as they were, thick as a running mean."""
    palette = colours(curve.decoder for curve, _, _ in lines)
    labelled: set[str] = set()
    for curve, steps, values in lines:
        colour = palette[curve.decoder]
        label = None if curve.decoder in labelled else curve.label
        labelled.add(curve.decoder)
        if smooth:
            axis.plot(steps, values, color=colour, alpha=0.25, lw=0.8)
            width = max(1, round(SMOOTH * len(values)))
            values = pd.Series(values).rolling(width, min_periods=1, center=True).mean().tolist()
        axis.plot(steps, values, color=colour, label=label, marker="o" if len(steps) < 3 or not smooth else "")


def in_words_of_curve(curve: Curve, steps: Sequence[int], values: Sequence[float], name: str) -> str:
    """'UPerNet seed 0: mIoU from 20.10 at iteration 10 to 50.20'."""
    return f"{curve.label} seed {curve.seed}: {name} from {values[0]:.2f} at iteration {steps[0]} to {values[-1]:.2f}"


def memory_similarity(memories: Sequence[Memory], classes: Sequence[str]) -> Figure | None:
    """Return a figure of the similarity of the classes' rows of M at the end, for the first seed of each decoder."""
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

    pairs = [f"{memory.label}: {closest(values, names)}" for memory, values in zip(first, maps, strict=True)]
    return Figure("Similarity (cosine) of the classes in M at the end of training", f"Maps. {'; '.join(pairs)}.", draw)


def closest(values: np.ndarray, names: Sequence[str]) -> str:
    """The pair of classes with the most similar rows, in words."""
    off = np.where(np.eye(len(values), dtype=bool) | ~np.isfinite(values), -np.inf, values)
    row, column = map(int, np.unravel_index(int(off.argmax()), off.shape))
    if not np.isfinite(off[row, column]):
        return "no two classes were seen"
    return f"closest are {names[row]} and {names[column]} at {values[row, column]:.2f}"


def memory_drift(memories: Sequence[Memory]) -> Figure | None:
    """Return a figure of M's distance from its final state at every snapshot; none where there is only the last one."""
    ways = [memory for memory in memories if sum(value is not None for value in memory.drift) > 1]
    if not ways:
        return None
    palette = colours(memory.decoder for memory in ways)

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7.2, 2.8)
            labelled = set()
            for memory in ways:
                label = None if memory.label in labelled else memory.label
                labelled.add(memory.label)
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
    return Figure(
        "Distance of M from its final state, mean over classes", f"Lines falling to 0. {'; '.join(ends)}.", draw
    )
