"""A study's figures: how it went, what mattered, and the score against each numeric key, one colour a schedule."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from harness.plan.search_space import Uniform
from harness.plan.study import Study, Trial
from harness.results.figure import Figure
from reports._style import MUTED, PAPER, SPARE, canvas, house
from reports.search.finding import Finding

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

DEFAULT = PAPER  # the default's marks


def make(study: Study, trials: Sequence[Trial], importance: Mapping[str, float], finding: Finding) -> dict[str, Figure]:
    """Every figure that the trials suffice for, by name."""
    complete = [trial for trial in trials if trial.state == "complete"]
    figures: dict[str, Figure] = {}
    if complete:
        figures["history"] = history(study, trials)
        for key, axis in study.space.items():
            if isinstance(axis, Uniform):
                figures[f"curve_{study.names[key]}"] = curve(study, trials, finding, key, axis)
    if importance:
        figures["importance"] = bars(study, importance)
    return figures


def history(study: Study, trials: Sequence[Trial]) -> Figure:
    """Every trial in order, and the best so far."""
    complete = [trial for trial in trials if trial.state == "complete"]
    pruned = [trial for trial in trials if trial.state == "pruned"]
    best = list(accumulate((value(trial) for trial in complete), max))

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7, 3)
            axis.step([trial.number for trial in complete], best, where="post", color=MUTED, label="best so far")
            for label, some, options in (
                ("complete", [t for t in complete if not t.default], {"color": SPARE[0], "marker": "o"}),
                ("default", [t for t in complete if t.default], {"color": DEFAULT, "marker": "D"}),
            ):
                if some:
                    axis.scatter([t.number for t in some], list(map(value, some)), s=28, label=label, **options)
            rug(axis, [trial.number for trial in pruned])
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set(xlabel="trial", ylabel=f"mIoU on {study.split} (%)", title="Trials in their order")
            figure.legend(loc="outside right upper")
            return figure

    alt = (
        f"{len(complete)} complete and {len(pruned)} pruned trials in order; the best so far rises from "
        f"{best[0]:.2f} to {best[-1]:.2f} mIoU."
    )
    return Figure("Trials in their order", alt, draw)


def curve(study: Study, trials: Sequence[Trial], finding: Finding, key: str, axis: Uniform) -> Figure:
    """Score against a key, one colour for each value of the first key that is a choice; the default with its band."""
    complete = [trial for trial in trials if trial.state == "complete" and key in trial.params]
    pruned = [trial for trial in trials if trial.state == "pruned" and key in trial.params]
    groups = split_up(study, [trial for trial in complete if not trial.default])
    name = study.names[key]

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axes = canvas(7, 3.6)
            if axis.log:
                axes.set_xscale("log")
            for (group, some), colour in zip(groups.items(), SPARE, strict=False):
                ordered = sorted(some, key=lambda trial: trial.params[key])
                points = [trial.params[key] for trial in ordered], list(map(value, ordered))
                axes.plot(*points, color=colour, lw=0.8, alpha=0.5)
                axes.scatter(*points, color=colour, s=32, label=group, zorder=3)
            if finding.default is not None:
                axes.axhline(finding.default, color=DEFAULT, lw=1, label=f"default ({study.said(study.default)})")
                if finding.spread is not None:
                    low, high = finding.default - finding.spread, finding.default + finding.spread
                    axes.axhspan(low, high, color=DEFAULT, alpha=0.1, lw=0, label=f"± over its {finding.seeds} seeds")
                own = [trial for trial in complete if trial.default]
                axes.scatter([t.params[key] for t in own], list(map(value, own)), color=DEFAULT, marker="D", s=26)
            if pruned:
                bottom = axes.get_ylim()[0]
                marks = [trial.params[key] for trial in pruned]
                axes.scatter(marks, [bottom] * len(marks), color=MUTED, marker="|", s=60, label="pruned", clip_on=False)
            title = f"mIoU against {name}"
            axes.set(xlabel=name, ylabel=f"mIoU on {study.split} (%)", title=title)
            figure.legend(loc="outside right upper")
            return figure

    tops = []
    for group, some in groups.items():
        top = max(some, key=value)
        tops.append(f"{group or 'all'}: best {value(top):.2f} at {name} {top.params[key]:.3g} of {len(some)} trials")
    texts = [f"{'; '.join(tops)}."] if tops else []
    if finding.default is not None:
        band = "" if finding.spread is None else f", plus or minus {finding.spread:.2f} over its seeds"
        texts.append(f"The default stands at {finding.default:.2f}{band}.")
    return Figure(f"mIoU against {name}", " ".join(texts) or "No trial that has this key is complete.", draw)


def bars(study: Study, importance: Mapping[str, float]) -> Figure:
    """Draw how much each key decides whether a trial is among the best."""
    names = {key: study.names[key] for key in importance}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7, 0.9 + 0.35 * len(importance))
            axis.barh([names[key] for key in importance], list(importance.values()), color=SPARE[2], height=0.6)
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.set(xlabel="share (PED-ANOVA)", xlim=(0, 1), title="What decides whether a trial is among the best")
            return figure

    shares = ", ".join(f"{names[key]} {share:.2f}" for key, share in importance.items())
    return Figure("What decides whether a trial is among the best", f"Importance by PED-ANOVA: {shares}.", draw)


def rug(axis: "Axes", places: Sequence[float]) -> None:
    """Ticks along the foot: pruned trials, whose last look is of another moment of training than the others' end."""
    if places:
        foot = axis.get_ylim()[0]
        axis.scatter(places, [foot] * len(places), color=MUTED, marker="|", s=60, label="pruned", clip_on=False)


def split_up(study: Study, trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Trials by the value of the first key that is a choice; all together where there is none."""
    by = next((key for key, axis in study.space.items() if not isinstance(axis, Uniform)), None)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault("" if by is None else str(trial.params.get(by)), []).append(trial)
    return dict(sorted(groups.items()))


def value(trial: Trial) -> Any:
    """A trial's score; nan where it has none."""
    return math.nan if trial.value is None else trial.value
