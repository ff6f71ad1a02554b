"""A study as a report, from what its storage knows: the finding, the ten best, figures. No torch, no mlflow, no optuna.

Not a plug-in of the folder above, whose reports are of an experiment's cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.plan.study import Study, Trial
from harness.results.paper import count
from harness.results.rows import Context
from harness.results.table import Report, Table
from reports.comparison import NONE, number, signed, title
from reports.search import figures
from reports.search.finding import Confirmation, Finding, find, sentence

MOST = 10  # rows


def render(
    study: Study,
    trials: Sequence[Trial],
    importance: Mapping[str, float],
    confirmation: Confirmation | None,
    context: Context,
) -> Report:
    """Its title is the finding; `confirmation` is that of `--confirm`, None without it."""
    finding = find(trials)
    return Report(
        sentence(study, finding),
        {"best": best(study, trials, finding, context)},
        command=context.command,
        notes=tuple(notes(study, trials, finding, importance, confirmation)),
        figures=figures.make(study, trials, importance, finding),
        appendix={"trials": everything(study, trials, context)},
    )


def everything(study: Study, trials: Sequence[Trial], context: Context) -> Table:
    """Every trial in its order."""
    rows, raw = [], []
    for trial in trials:
        facts = trial.facts
        iterations = f"{facts['step']} of {facts['steps']}" if "steps" in facts else NONE
        seed = facts.get("seed", study.config["seed"])
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
        notes=("The mIoU of a pruned trial is that of its last look.",),
        align="rl" + "r" * (len(names) + 3),
        raw=tuple(raw),
    )


def best(study: Study, trials: Sequence[Trial], finding: Finding, context: Context) -> Table:
    """The best complete trials; of the default the mean over its seeds, as one row of its own rank."""
    ranked = [(float(trial.value), trial) for trial in trials if trial.state == "complete" and trial.value is not None]
    rows: list[tuple[float, Trial, bool]] = [(score, trial, False) for score, trial in ranked if not trial.default]
    own = [trial for _, trial in ranked if trial.default]
    if finding.default is not None:
        rows.append((finding.default, own[0], True))
    rows.sort(key=lambda row: -row[0])
    shown = [row for rank, row in enumerate(rows) if rank < MOST or row[2]]
    keys = list(study.space)
    names = [study.names[key] for key in keys]
    lines, raw = [], []
    for score, trial, default in shown:
        lead = None if finding.default is None or default else score - finding.default
        spread = f" ± {finding.spread:.2f}" if default and finding.spread is not None else ""
        who = f"default, {count(finding.seeds, 'seed')}" if default else f"trial {trial.number}"
        values = [text(trial.params.get(key)) for key in keys]
        lines.append((who, *values, number(score) + spread, signed(lead)))
        params = {name: trial.params.get(key) for name, key in zip(names, keys, strict=True)}
        raw.append({"trial": None if default else trial.number, **params, "miou": score, "lead": lead})
    return Table(
        title=f"{title(context)}: the best of {len(ranked)} complete trials",
        columns=("Trial", *names, f"mIoU on {study.split}", "over the default"),
        rows=tuple(lines),
        align="l" + "r" * len(keys) + "rr",
        bold=frozenset({(0, 0)} if len(lines) > 1 else ()),
        raw=tuple(raw),
    )


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
        newer = f"trial {finding.best.number} was not the best then; " if confirmation else ""
        lines.append(f"A search's best value is biased upwards: {newer}--confirm S retrains it and the default on val.")
    if study.split == "val":
        lines.append("split=val: trials were scored on val itself, so no number here is free of the search.")
    else:
        share = study.config["data"]["hold_out"]
        lines.append(
            f"Trials are scored on {study.split}: {share:.0%} of the training videos, held out by whole recordings. "
            "val was not looked at."
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
        lines.append(f"Pruning left out {planned - run} of {planned} iterations ({(planned - run) / planned:.0%}).")
    if importance:
        shares = ", ".join(f"{study.names[key]} {share:.2f}" for key, share in importance.items())
        lines.append(f"Importance (PED-ANOVA): {shares}.")
    failed = [trial for trial in trials if trial.state == "failed"]
    lines += [f"Trial {trial.number} ({study.said(trial.params)}) failed: {trial.facts['reason']}." for trial in failed]
    return lines


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
