"""A study's figures: how it went, what mattered, and the score against each numeric key, one colour a schedule."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import mean
from typing import TYPE_CHECKING, Any

from harness.plan.search_space import Uniform
from harness.plan.study import Study, Trial
from harness.results import stats
from harness.results.figure import Figure
from harness.results.paper import count
from reports._style import MUTED, PAPER, SPARE, canvas, house, whiskers
from reports.search.finding import over_seeds, with_interval

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

DEFAULT = PAPER  # the default's marks


def make(study: Study, trials: Sequence[Trial], importance: Mapping[str, float]) -> dict[str, Figure]:
    """Every figure that the trials suffice for, by name."""
    complete = [trial for trial in trials if trial.state == "complete"]
    figures: dict[str, Figure] = {}
    if complete:
        figures["history"] = history(study, trials)
        for key, axis in study.space.items():
            if isinstance(axis, Uniform):
                figures[f"curve_{study.names[key]}"] = curve(study, trials, key, axis)
    if importance:
        figures["importance"] = bars(study, importance)
    return figures


def history(study: Study, trials: Sequence[Trial]) -> Figure:
    """Every trial in order, and the best so far of those of the first seed."""
    complete = [trial for trial in trials if trial.state == "complete"]
    pruned = [trial for trial in trials if trial.state == "pruned"]
    first = study.config["seed"]
    shared = [trial for trial in complete if study.seed(trial) == first]
    best = list(accumulate((value(trial) for trial in shared), max))

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7, 3)
            label = f"best so far, seed {first}"
            axis.step([trial.number for trial in shared], best, where="post", color=MUTED, label=label)
            others = [t for t in complete if not t.default]
            for label, some, options in (
                (f"seed {first}", [t for t in others if t in shared], {"color": SPARE[0], "marker": "o"}),
                ("repeated, other seed", [t for t in others if t not in shared], {"color": SPARE[1], "marker": "s"}),
                ("default, every seed", [t for t in complete if t.default], {"color": DEFAULT, "marker": "D"}),
            ):
                if some:
                    axis.scatter([t.number for t in some], list(map(value, some)), s=28, label=label, **options)
            rug(axis, [trial.number for trial in pruned])
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set(xlabel="trial", ylabel=f"mIoU on {study.split} (%)", title="Trials in order")
            figure.legend(loc="outside right upper")
            return figure

    rises = f"; the best so far of seed {first} rises from {best[0]:.2f} to {best[-1]:.2f} mIoU" if best else ""
    alt = f"{len(complete)} complete and {len(pruned)} pruned trials in order{rises}."
    return Figure("Trials in order", alt, draw)


def curve(study: Study, trials: Sequence[Trial], key: str, axis: Uniform) -> Figure:
    """Difference from the default by seed against a key; one colour a value of the first key that is a choice."""
    settings = [setting for setting in study.settings(trials) if key in setting.params]
    default = next((setting for setting in settings if setting.default), None)
    points = {setting.trials[0].number: setting.differences(default) for setting in settings if not setting.default}
    points = {number: differences for number, differences in points.items() if differences}
    pruned = [trial for trial in trials if trial.state == "pruned" and key in trial.params]
    groups = split_up(study, [trial for trial in trials if trial.number in points])
    name = study.names[key]

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axes = canvas(7, 3.6)
            if axis.log:
                axes.set_xscale("log")
            for (group, some), colour in zip(groups.items(), SPARE, strict=False):
                ordered = sorted(some, key=lambda trial: trial.params[key])
                means = [mean(points[trial.number].values()) for trial in ordered]
                axes.plot([t.params[key] for t in ordered], means, color=colour, lw=0.8, alpha=0.5)
                for trial, height in zip(ordered, means, strict=True):
                    whiskers(axes, trial.params[key], height, interval(points[trial.number]), colour, upright=True)
                axes.plot([], [], "o", color=colour, label=group)
            axes.axhline(0, color=DEFAULT, lw=1, label=f"default ({study.label(study.default)})")
            axes.scatter([study.default[key]], [0], color=DEFAULT, marker="D", s=26)
            if pruned:
                bottom = axes.get_ylim()[0]
                marks = [trial.params[key] for trial in pruned]
                axes.scatter(marks, [bottom] * len(marks), color=MUTED, marker="|", s=60, label="pruned", clip_on=False)
            title = f"vs. the default on the same seeds, against {name}"
            axes.set(xlabel=name, ylabel=f"difference in mIoU on {study.split}, points", title=title)
            figure.legend(loc="outside right upper")
            return figure

    tops = []
    for group, some in groups.items():
        top = max(some, key=lambda trial: mean(points[trial.number].values()))
        told = f"{with_interval(points[top.number])} {over_seeds(list(points[top.number]))}"
        tops.append(f"{group or 'all'}: best {told} at {name} {top.params[key]:.3g} of {count(len(some), 'setting')}")
    alt = f"{'; '.join(tops)}." if tops else "No setting shares a complete seed with the default."
    return Figure(
        f"Difference from the default by seed against {name} (bar: {stats.LEVEL:.0%} interval, with {stats.SEEDS} or "
        "more seeds; hollow: fewer)",
        alt,
        draw,
    )


def interval(differences: Mapping[int, float]) -> stats.Interval:
    """Return the interval of a mean difference."""
    return stats.seed_interval(list(differences.values()))


def bars(study: Study, importance: Mapping[str, float]) -> Figure:
    """Draw how much each key decides whether a trial is among the best."""
    names = {key: study.names[key] for key in importance}

    def draw() -> "matplotlib.figure.Figure":
        with house():
            figure, axis = canvas(7, 0.9 + 0.35 * len(importance))
            axis.barh([names[key] for key in importance], list(importance.values()), color=SPARE[2], height=0.6)
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.set(xlabel="share (PED-ANOVA)", xlim=(0, 1), title="What determines whether a trial is among the best")
            return figure

    shares = ", ".join(f"{names[key]} {share:.2f}" for key, share in importance.items())
    return Figure("What determines whether a trial is among the best", f"Importance by PED-ANOVA: {shares}.", draw)


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
