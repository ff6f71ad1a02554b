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
from reports.search.finding import Finding, find, sentence

MOST = 10  # rows


def render(
    study: Study,
    trials: Sequence[Trial],
    importance: Mapping[str, float],
    confirmed: Mapping[str, Any],
    context: Context,
) -> Report:
    """Its title is the finding; `confirmed` is what `--confirm` left, empty where it was not asked for."""
    found = find(trials)
    return Report(
        sentence(study, found),
        {"best": best(study, trials, found, context)},
        command=context.command,
        notes=tuple(notes(study, trials, found, importance, confirmed)),
        figures=figures.make(study, trials, importance, found),
        appendix={"trials": everything(study, trials, context)},
    )


def everything(study: Study, trials: Sequence[Trial], context: Context) -> Table:
    """Every trial in its order."""
    rows, raw = [], []
    for trial in trials:
        facts = trial.facts
        made = f"{facts['step']} of {facts['steps']}" if "steps" in facts else NONE
        seed = facts.get("seed", study.config["seed"])
        values = [text(trial.params.get(key, NONE)) for key in study.space]
        rows.append((str(trial.number), trial.state, *values, str(seed), number(trial.value), made))
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


def best(study: Study, trials: Sequence[Trial], found: Finding, context: Context) -> Table:
    """The best complete trials; of the default the mean over its seeds, as one row of its own rank."""
    ranked = [(float(trial.value), trial) for trial in trials if trial.state == "complete" and trial.value is not None]
    rows: list[tuple[float, Trial, bool]] = [(score, trial, False) for score, trial in ranked if not trial.default]
    own = [trial for _, trial in ranked if trial.default]
    if found.default is not None:
        rows.append((found.default, own[0], True))
    rows.sort(key=lambda row: -row[0])
    shown = [row for place, row in enumerate(rows) if place < MOST or row[2]]
    keys = list(study.space)
    names = [study.names[key] for key in keys]
    lines, raw = [], []
    for score, trial, default in shown:
        lead = None if found.default is None or default else score - found.default
        spread = f" ± {found.spread:.2f}" if default and found.spread is not None else ""
        who = f"default, {count(found.seeds, 'seed')}" if default else f"trial {trial.number}"
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
    found: Finding,
    importance: Mapping[str, float],
    confirmed: Mapping[str, Any],
) -> list[str]:
    """What a reader must know, the confirmation first."""
    lines = []
    if confirmed:
        lines.append(confirmation(confirmed))
    if found.best is not None and confirmed.get("trial") != found.best.number:
        newer = f"trial {found.best.number} was not the best then; " if confirmed else ""
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
    made = sum(int(trial.facts.get("step") or 0) for trial in trials if trial.ended)
    if planned > made:
        lines.append(f"Pruning left out {planned - made} of {planned} iterations ({(planned - made) / planned:.0%}).")
    if importance:
        shares = ", ".join(f"{study.names[key]} {share:.2f}" for key, share in importance.items())
        lines.append(f"Importance (PED-ANOVA): {shares}.")
    failed = [trial for trial in trials if trial.state == "failed"]
    lines += [f"Trial {trial.number} ({study.said(trial.params)}) failed: {trial.facts['reason']}." for trial in failed]
    return lines


def confirmation(confirmed: Mapping[str, Any]) -> str:
    """What the best was worth on val, paired by seed."""
    spread = "" if confirmed.get("sd") is None else f" ± {confirmed['sd']:.2f}"
    of = f" (95% interval of {confirmed['interval_of']})" if confirmed.get("interval_of") else ""
    bounds = "" if confirmed.get("low") is None else f" [{signed(confirmed['low'])}, {signed(confirmed['high'])}]{of}"
    ahead = f"ahead in {confirmed['ahead']} of {count(confirmed['seeds'], 'seed')}"
    return (
        f"Confirmed on val, trained on all training videos: {confirmed['best']} {confirmed['miou']:.2f}, the default "
        f"{confirmed['default']:.2f}; paired difference {signed(confirmed['gain'])}{spread}{bounds}, {ahead}."
    )
