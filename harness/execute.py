"""From a plan to results: skip what is finished, run what is missing launch by launch, and write the report."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core import plugins, record, results
from harness.core.config import Config
from harness.core.errors import UnfitError, UsageError
from harness.core.job import Evaluate, Job
from harness.core.plan import Experiment, Plan, launches, read_json, setting
from harness.core.table import Context, Report, write
from harness.publish import Publisher
from harness.store.tracking import Tracking
from harness.supervise import Launcher, Show, Stopped, describe, supervise


@dataclass(frozen=True)
class How:
    """How to run, never what: nothing of it enters a fingerprint."""

    launcher: str = "auto"
    nproc: int | None = None
    offline: bool = False
    command: tuple[str, ...] = tuple(sys.argv)


@dataclass(frozen=True)
class Finished:
    """One experiment's outcome: its results frame and its report, written to `folder`."""

    experiment: Experiment
    frame: pd.DataFrame
    context: Context
    report: Report
    folder: Path


@dataclass(frozen=True)
class Results:
    """What an invocation came to."""

    finished: tuple[Finished, ...]
    executed: int  # jobs run now
    failures: Mapping[Job, str]  # job -> reason
    where: str  # how to open the store


def run(plan: Plan, how: How, show: Show, say: Callable[[str], None]) -> Results:
    """Run what is missing of a plan and report. Raises Stopped after a signal, UnfitError before anything is run."""
    writable(plan.root)
    missing = [job for job in plan.jobs if plan.state(job) != "done"]
    if missing:
        fit(plan.config)
    tracking = None if how.offline else Tracking()
    if tracking is not None:
        tracking.check()
    publisher = Publisher(plan, tracking)
    failures: dict[Job, str] = {}
    stopped: Stopped | None = None
    if missing:
        launcher, facts = choose(plan, how, len(missing))
        say(f"{len(missing)} jobs to run ({facts['launcher']}, {facts['nproc']} process(es)), logs under {plan.root}")
        try:
            execute(plan, missing, launcher, publisher, show, facts, failures)
        except Stopped as stop:
            stopped = stop
        finally:
            launcher.close()
    finished = tuple(conclude(plan, experiment, publisher, failures, how, stopped) for experiment in plan.experiments)
    if stopped is not None:
        raise stopped
    where = "nothing was told to MLflow (--offline); the same command without it does" if tracking is None else tracking.hint()
    return Results(finished, len(missing), failures, where)


def execute(
    plan: Plan,
    missing: Sequence[Job],
    launcher: Launcher,
    publisher: Publisher,
    show: Show,
    facts: Mapping[str, Any],
    failures: dict[Job, str],
) -> None:
    """Run launch after launch; what needs a failed job is skipped with that reason."""
    for launch in launches(missing):
        able = []
        for job in launch:
            broken = [needed for needed in job.inputs if needed in failures]
            if broken:
                failures[job] = f"needs '{broken[0].name}', which failed"
            else:
                able.append(job)
        if not able:
            continue
        for job, outcome in supervise(plan, able, launcher, publisher, show, facts).items():
            if outcome["status"] != "finished":
                failures[job] = str(outcome.get("reason") or outcome["status"])


def conclude(
    plan: Plan,
    experiment: Experiment,
    publisher: Publisher,
    failures: Mapping[Job, str],
    how: How,
    stopped: Stopped | None,
) -> Finished:
    """Tell the store what is done, build the report and write it under the root."""
    nothing_new = not publisher.missing(experiment)
    publisher.catch_up(experiment)
    frame = results.frame(rows(plan, experiment, failures, publisher.runs(experiment)))
    facts = context(experiment, how.command)
    report = plugins.load("reports", experiment.report, experiment.config.folders).render(frame, facts)
    folder = plan.root / "reports" / experiment.name
    write(report, folder)
    if not nothing_new or not publisher.reported(experiment):
        failed = any(job in failures for job in experiment.jobs)
        publisher.report(experiment, report, folder, "KILLED" if stopped else "FAILED" if failed else "FINISHED")
    return Finished(experiment, frame, facts, report, folder)


def rows(
    plan: Plan, experiment: Experiment, failures: Mapping[Job, str], runs: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row of the results frame for each cell and seed, from the root's files."""
    table = []
    for order, (seed, cell) in enumerate(experiment.cells):
        directory = plan.directory(cell.job)
        state = plan.state(cell.job)
        found = record.read_evaluation(directory) if state == "done" else None
        reason = failures.get(cell.job)
        if found is None and reason is None:
            reason = read_json(directory / "outcome.json").get("reason") or "not run yet"
        made = found.provenance if found is not None else {}
        table.append(
            {
                **cell_row(experiment, order, seed, cell.name),
                "status": "done" if found is not None else "failed" if cell.job in failures else "missing",
                "reason": None if found is not None else reason,
                "miou": found.final["miou"] if found is not None else None,
                "units": count_units(experiment.config, found.videos) if found is not None else None,
                "run_id": runs.get(cell.job.fingerprint),
                "seconds": made.get("seconds"),
                **{key: made.get(key) for key in ("commit", "dirty", "device", "versions")},
            }
        )
    return table


def cell_row(experiment: Experiment, order: int, seed: int, name: str) -> dict[str, Any]:
    """What the plan alone says of a cell."""
    cell = next(cell for cell_seed, cell in experiment.cells if (cell_seed, cell.name) == (seed, name))
    facts = setting(experiment.config)
    return {
        "experiment": experiment.name,
        "order": order,
        "cell": cell.name,
        "method": cell.method,
        "backbone": facts["encoder"],
        "epochs": facts["epochs"],
        "seed": seed,
        "stage": cell.job.stage,
        "fingerprint": cell.job.fingerprint,
        "baseline": cell.over,
        "precision": facts["precision"],
        "micro_batch": facts["micro_batch"],
    }


def count_units(config: Config, videos: Mapping[str, Any]) -> int:
    """How many independent units (videos or recordings) a number rests on."""
    from harness.core.content import build_dataset

    dataset = build_dataset(config)
    return len({dataset.unit(video) for video in videos})


def context(experiment: Experiment, command: Sequence[str]) -> Context:
    """What a report says about its setting."""
    return Context.of(experiment.name, experiment.title, experiment.config.preset, setting(experiment.config), command)


def fit(config: Config) -> None:
    """Raise UnfitError where data or weights that the plan needs are not there."""
    if config.content.missing:
        raise UnfitError(config.content.missing[0])


def writable(root: Path) -> None:
    """Make the root, or raise UnfitError."""
    try:
        (root / "jobs").mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UnfitError(f"{root}: {error.strerror}; choose another root with --root DIR") from error


def choose(plan: Plan, how: How, jobs: int) -> tuple[Launcher, dict[str, Any]]:
    """The launcher, and what is recorded of how it runs. Raises UsageError for a number of ranks that does not fit."""
    name = how.launcher
    if name == "auto":
        name = "torchrun" if (how.nproc or gpus()) > 1 else "inline"
    nproc = how.nproc or (max(1, gpus()) if name == "torchrun" else 1)
    if name == "inline" and nproc > 1:
        raise UsageError(f"--launcher inline runs one process, not {nproc}; leave --launcher out or use torchrun")
    micro = plan.config.micro_batch
    if nproc < 1 or micro % nproc:
        fitting = ", ".join(str(n) for n in range(1, micro + 1) if micro % n == 0)
        raise UsageError(f"--nproc {nproc} does not divide the micro-batch of {micro}; these do: {fitting}")
    module = plugins.load("launchers", name, plan.config.folders)
    return module.Launcher(nproc, plan.root / "logs"), describe(name, nproc, how.command, source())


def gpus() -> int:
    """GPUs of this node, without importing torch."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return sum(line.startswith("GPU ") for line in listed.splitlines()) if visible is None else len(visible.split(","))


def source() -> dict[str, Any]:
    """Commit of the harness and whether its files differ from it; unknown outside git."""

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=plugins.PROJECT, capture_output=True, text=True, check=False)
        return answer.stdout.strip()

    try:
        return {"commit": git("rev-parse", "--short=12", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}
    except OSError:
        return {"commit": None, "dirty": None}


__all__ = ["Evaluate", "Finished", "How", "Results", "run"]
