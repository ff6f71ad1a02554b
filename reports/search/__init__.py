"""A study as a report, from what its storage knows: the finding, the ten best, figures. No torch, no mlflow, no optuna.

Not a plug-in of the folder above, whose reports are of an experiment's cells.
"""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from harness.plan.study import Setting, Study, Trial
from harness.results import stats
from harness.results.paper import count
from harness.results.rows import Context
from harness.results.table import Report, Table
from reports.comparison import NONE, number, signed, title
from reports.search import figures
from reports.search.finding import (
    IMPORTANCE_FROM,
    Confirmation,
    Finding,
    find,
    over_seeds,
    sentence,
    with_interval,
)

MOST = 10  # rows


def render(
    study: Study,
    trials: Sequence[Trial],
    importance: Mapping[str, float],
    confirmation: Confirmation | None,
    context: Context,
) -> Report:
    """Its title is the finding; `confirmation` is that of `--confirm`, None without it."""
    finding = find(study, trials)
    return Report(
        sentence(study, finding),
        {"best": best(study, trials, finding, context)},
        command=context.command,
        notes=tuple(notes(study, trials, finding, importance, confirmation)),
        figures=figures.make(study, trials, importance),
        appendix={"trials": everything(study, trials, context)},
    )


def everything(study: Study, trials: Sequence[Trial], context: Context) -> Table:
    """Every trial in its order."""
    rows, raw = [], []
    for trial in trials:
        facts = trial.facts
        iterations = f"{facts['step']} of {facts['steps']}" if "steps" in facts else NONE
        seed = study.seed(trial)
        values = [text(trial.params.get(key, NONE)) for key in study.space]
        rows.append((str(trial.number), trial.state, *values, str(seed), number(trial.value), iterations))
        params = {study.names[key]: trial.params.get(key) for key in study.space}
        kept = {key: facts.get(key) for key in ("step", "steps", "work", "fingerprint", "reason")}
        raw.append({"trial": trial.number, "state": trial.state, **params, "seed": seed, "miou": trial.value, **kept})
    names = [study.names[key] for key in study.space]
    return Table(
        title=f"{title(context)}: every trial",
        columns=("Trial", "State", *names, "Seed", f"mIoU on {study.split}", "Iterations"),
        rows=tuple(rows),
        notes=("The mIoU of a pruned trial is that of its last intermediate evaluation.",),
        align="rl" + "r" * (len(names) + 3),
        raw=tuple(raw),
    )


def best(study: Study, trials: Sequence[Trial], finding: Finding, context: Context) -> Table:
    """The best settings, each compared with the default over the seeds that both have complete."""
    settings = [setting for setting in study.settings(trials) if setting.by_seed]
    default = next((setting for setting in settings if setting.default), None)
    ranked = sorted(settings, key=lambda setting: -lead(setting, default))
    shown = [setting for place, setting in enumerate(ranked) if place < MOST or setting.default]
    names = [study.names[key] for key in study.space]
    lines, raw = [], []
    for setting in shown:
        scores, differences = list(setting.by_seed.values()), {} if setting.default else setting.differences(default)
        spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
        who = "default" if setting.default else f"trial {setting.trials[0].number}"
        values = [text(setting.params.get(key)) for key in study.space]
        seeds = ", ".join(map(str, sorted(setting.by_seed)))
        versus = f"{with_interval(differences)} {over_seeds(list(differences))}" if differences else NONE
        lines.append((who, *values, seeds, number(mean(scores)) + spread, versus))
        low, high = stats.seed_interval(list(differences.values()))[:2]
        raw.append(
            {
                "trial": None if setting.default else setting.trials[0].number,
                **{name: setting.params.get(key) for name, key in zip(names, study.space, strict=True)},
                "miou": mean(scores),
                "lead": mean(differences.values()) if differences else None,
                **{"lead_low": low, "lead_high": high, "seeds": seeds},
            }
        )
    bold = [index for index, setting in enumerate(shown) if finding.best is setting.trials[0]]
    return Table(
        title=f"{title(context)}: best of {len(settings)} settings",
        columns=("Trial", *names, "Seeds", f"mIoU on {study.split}", "vs. the default, by seed"),
        rows=tuple(lines),
        notes=(
            "vs. the default: over the seeds that both have complete; ± is the standard deviation of the differences, "
            f"[ , ] their {stats.LEVEL:.0%} interval of {stats.THESE_VIDEOS}, from {stats.SEEDS} seeds on.",
        ),
        align="l" + "r" * (len(names) + 3),
        bold=frozenset((index, 0) for index in bold if finding.distinguishable),
        raw=tuple(raw),
    )


def lead(setting: Setting, default: Setting | None) -> float:
    """Return what settings are listed by: the mean difference to the default, or mIoU where there is no default."""
    if setting.default:
        return 0.0
    return mean((setting.differences(default) or setting.by_seed).values())


def text(value: Any) -> str:
    """A value in a table's cell."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def notes(
    study: Study,
    trials: Sequence[Trial],
    finding: Finding,
    importance: Mapping[str, float],
    confirmation: Confirmation | None,
) -> list[str]:
    """Return the notes that a reader needs, the confirmation first."""
    lines = []
    if confirmation:
        lines.append(in_words(confirmation))
    if finding.best is not None and (confirmation is None or confirmation.trial != finding.best.number):
        newer = f"trial {finding.best.number} was not yet the best at that time; " if confirmation else ""
        lines.append(f"A search's best value is biased upwards: {newer}--confirm S retrains it and the default on val.")
    if study.split == "val":
        lines.append("split=val: trials were scored on val itself, so every number here is affected by the search.")
    else:
        share = study.config["data"]["hold_out"]
        lines.append(
            f"Trials are scored on {study.split}: {share:.0%} of the training videos, held out by whole recordings. "
            "val was not used."
        )
    states = {state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed")}
    running = [trial for trial in trials if not trial.ended]
    lines.append(
        f"{count(len(trials) - len(running), 'trial')} ended ("
        + ", ".join(f"{number} {state}" for state, number in states.items() if number)
        + ")."
        + (f" {len(running)} not yet." if running else "")
    )
    planned = sum(int(trial.facts.get("steps") or 0) for trial in trials if trial.ended)
    run = sum(int(trial.facts.get("step") or 0) for trial in trials if trial.ended)
    if planned > run:
        lines.append(f"Pruning saved {planned - run} of {planned} iterations ({(planned - run) / planned:.0%}).")
    lines += importance_notes(study, trials, importance)
    failed = [trial for trial in trials if trial.state == "failed"]
    lines += [
        f"Trial {trial.number} ({study.label(trial.params)}) failed: {trial.facts['reason']}." for trial in failed
    ]
    return lines


def importance_notes(study: Study, trials: Sequence[Trial], importance: Mapping[str, float]) -> list[str]:
    """The importance of each key that varied; why there is none."""
    first = study.config["seed"]
    complete = [setting for setting in study.settings(trials) if first in setting.by_seed]
    still = [name for key, name in study.names.items() if len({setting.params.get(key) for setting in complete}) < 2]
    if importance:
        shares = ", ".join(f"{study.names[key]} {share:.2f}" for key, share in importance.items())
        never = f" {', '.join(still)}: never varied." if still else ""
        return [f"Importance (PED-ANOVA, {len(complete)} settings on seed {first}): {shares}.{never}"]
    if len(complete) < 2:
        return []
    if len(complete) < IMPORTANCE_FROM:
        return [
            f"No importance of keys: {count(len(complete), 'setting')} complete on seed {first}; "
            f"{IMPORTANCE_FROM} needed."
        ]
    return [f"No importance of keys: never varied: {', '.join(still)}."] if still else []


def in_words(confirmation: Confirmation) -> str:
    """Return the gain of the best on val, paired by seed, in words."""
    spread = "" if confirmation.sd is None else f" ± {confirmation.sd:.2f}"
    of = f" (95% interval of {confirmation.interval_of})" if confirmation.interval_of else ""
    ends = f" [{signed(confirmation.low)}, {signed(confirmation.high)}]{of}" if confirmation.low is not None else ""
    ahead = f"ahead in {confirmation.ahead} of {count(confirmation.seeds, 'seed')}"
    return (
        f"Confirmed on val, trained on all training videos: {confirmation.best} {confirmation.miou:.2f}, the default "
        f"{confirmation.default:.2f}; paired difference {signed(confirmation.gain)}{spread}{ends}, {ahead}."
    )
