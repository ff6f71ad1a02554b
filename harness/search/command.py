"""`harness search`: a study from its file to its report. Trials are jobs; the storage says what is next.

Request ──▶ Study (plan) ──▶ Keeper (storage: Optuna) ──▶ loop: take, run, publish ──▶ reports.search
                                                            └── study_publisher: MLflow
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.common import collector
from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.common.progress import Progress
from harness.common.signals import Stopped
from harness.jobdir.paths import OutputDir
from harness.jobdir.stop_request import StopRequest, obeyed
from harness.launch import access, runner
from harness.plan import cost
from harness.plan.study import Study, Trial
from harness.report import html_study
from harness.results import rows
from harness.results.rows import Context
from harness.results.table import Report, write
from harness.search import confirm, local_workers, slurm_workers
from harness.search.backend import OWN, Storage
from harness.search.loop import Worker
from harness.search.request import Request
from harness.search.storage import Keeper, stored_trials
from harness.search.study_publisher import SilentStudyPublisher, study_publisher_of
from reports import search as report_of
from reports.search.finding import find

log = logging.getLogger(__name__)

UNUSED = -1  # a seed that nobody runs: jobs that are wholly missing, like those of any other


@dataclass(frozen=True)
class Done:
    """The result of an invocation."""

    study: Study
    trials: list[Trial]
    report: Report
    folder: Path
    where: str  # how to open the store; empty where it was told nothing
    away: str | None = None  # why it was told nothing, where it did not answer
    failures: Mapping[str, str] = field(default_factory=dict)  # jobs of the confirmation -> reason
    importance: Mapping[str, float] = field(default_factory=dict)  # of the space's keys; empty where it cannot be said


def work(request: Request, index: int, progress: Progress) -> None:
    """Be one worker of a study until it has its trials. Raise Stopped after a signal.

    The last worker that a cancellation ends says so of the study's run: in Slurm the search may have left before.
    """
    study, root = request.make(), Path(request.root)
    launcher, facts = runner.choose(study.plan(study.default, study.config["seed"], root), request.options)
    launcher.log = launcher.log.with_name(f"{study.name}-{index}-{launcher.log.name}")
    try:
        launcher.warm()  # imports torch, which takes seconds, while the storage and MLflow are opened
        keeper = Keeper(study, Storage(request.storage, request.folder(study.name)))
        publisher = study_publisher_of(study, root, request.tracking())
        try:
            Worker(study, keeper, publisher, launcher, root, facts, progress).run(request.total)
        except Stopped as stop:
            if stop.status == "cancelled" and not keeper.at_work():
                with suppress(HarnessError, OSError):  # a store that is away
                    publisher.mark("KILLED")
            raise
    finally:
        launcher.close()


def run(request: Request, workers: int, progress: Progress) -> Done:
    """Run a study up to its number of trials, publish and report. Raise Stopped after a signal or a request."""
    stop_file = request.study_dir().stop_file
    before = StopRequest.read(stop_file)
    study, root = request.make(), Path(request.root)
    shares = shared(request, workers)
    access.writable(root)
    runner.require_inputs(study.config)
    default = study.plan(study.default, study.config["seed"], root)
    await_networks = runner.ask_networks(default, request.options, default.jobs)
    tracking = request.tracking()
    await_networks()  # what cannot be, before anything is noted
    storage = settled(request, study)
    collector.imported()
    keeper = Keeper(study, storage)
    publisher = study_publisher_of(study, root, tracking)
    done = sum(trial.ended for trial in keeper.trials())
    if done < request.total:
        log.info(
            f"study '{study.name}' in {storage.shown}: {done} of {request.total} trials have ended; {workers} worker(s)"
        )
        runner.fetch(study.config)
        publisher.mark("RUNNING")
        try:
            with obeyed(stop_file, before):
                if request.options.launcher == "slurm":
                    slurm_workers.run(request, workers, keeper, before)
                elif workers == 1:
                    work(request, 0, progress)
                else:
                    local_workers.run(asdict(request), shares, lambda: reached(keeper))
        except (Stopped, HarnessError, OSError) as why:
            status = "KILLED" if isinstance(why, Stopped) else "FAILED"
            broken_off(request, study, keeper, publisher, status)
            raise
    return conclude(request, study, keeper, publisher, "FINISHED")


def reached(keeper: Keeper) -> int:
    """Return a number that grows with every look and every end of a trial."""
    return sum(trial.ended + len(trial.looks) for trial in keeper.trials())


def shared(request: Request, workers: int) -> list[dict[str, str]]:
    """Return each worker's part of this machine; none by Slurm. Raise UsageError for more workers than fit."""
    if request.options.launcher != "slurm":
        return local_workers.share(workers, request.options.nproc)
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    return []


def broken_off(request: Request, study: Study, keeper: Keeper, publisher: SilentStudyPublisher, status: str) -> None:
    """Report what there is; what is away or full hides nothing of why it broke off."""
    try:
        conclude(request, study, keeper, publisher, status)
    except (HarnessError, OSError):
        with suppress(HarnessError, OSError):
            publisher.mark(status)


def confirmed(request: Request, done: Done, seeds: int, progress: Progress) -> Done:
    """Train the best and the default anew, compare them on val, and report again.

    Raise Stopped after a signal or a request.
    """
    stop_file = request.study_dir().stop_file
    best = find(done.study, done.trials).best
    if best is None:
        raise UsageError(f"--confirm {seeds}: no trial other than the default is complete; give more --trials")
    study, root = done.study, Path(request.root)
    with obeyed(stop_file, StopRequest.read(stop_file)):
        confirmation, ran = confirm.run(study, best, seeds, root, request.options, progress)
    for job, reason in ran.failures.items():
        log.info(f"failed: {job.name}: {reason}")
    keeper = Keeper(study, Storage(request.storage, request.folder(study.name)))
    if confirmation is not None:
        keeper.remember(confirmation)
    publisher = study_publisher_of(study, root, request.tracking())
    finished = conclude(request, study, keeper, publisher, "FINISHED")
    return replace(finished, failures={job.name: reason for job, reason in ran.failures.items()})


def conclude(request: Request, study: Study, keeper: Keeper, publisher: SilentStudyPublisher, status: str) -> Done:
    """Upload what MLflow lacks and write the report; while others work on it, the study's run stays open."""
    trials = keeper.trials()
    importance, facts = keeper.importance(), context(request, study)
    summary = report_of.render(study, trials, importance, keeper.confirmed(), facts)
    folder = OutputDir(Path(request.root)).reports / f"search_{study.name}"
    write(summary, folder, svg=facts.svg)
    where, away, pages = "", None, {}
    try:
        publisher.catch_up(trials)
        pages = publisher.pages(trials)
    except UnfitError as error:
        away = str(error)
    html_study.write(summary, facts, pages, folder)
    if away is None:
        try:
            where = publisher.report(summary, folder, "RUNNING" if keeper.at_work() else status)
        except UnfitError as error:
            away = str(error)
    return Done(study, trials, summary, folder, where, away, importance=importance)


def context(request: Request, study: Study) -> Context:
    """Return the study's context for a report: identity, data and command."""
    (experiment,) = study.plan(study.default, study.config["seed"], Path(request.root)).experiments
    return rows.context(experiment, request.options.command)


def settled(request: Request, study: Study) -> Storage:
    """Return the study's storage, noted in its folder. Raise UsageError if the study was begun in another one."""
    storage = the_same(request, study)
    storage.folder.mkdir(parents=True, exist_ok=True)
    storage.open()  # before it is noted: a place that does not answer is none
    (storage.folder / "storage").write_text(storage.address)
    return storage


def the_same(request: Request, study: Study) -> Storage:
    """Return the requested storage. Raise UsageError if the study was begun in another one."""
    storage = Storage(request.storage, request.folder(study.name))
    note = storage.folder / "storage"
    begun = note.read_text() if note.is_file() else storage.address
    if begun != storage.address:
        where = f"its own folder, {storage.folder}" if begun == OWN else begun
        again = "leave --storage out" if begun == OWN else "give --storage again"
        raise UsageError(f"the study '{study.name}' was started in {where}: {again}, or choose a new name with --study")
    return storage


def dry(request: Request, workers: int) -> list[str]:
    """Return the lines of a dry run: trials, budget and cost. Nothing is written."""
    study = request.make()
    shared(request, workers)
    storage = the_same(request, study)
    ended = [trial for trial in stored_trials(study, storage) if trial.ended]
    left = max(0, request.total - len(ended))
    lines = [
        f"{study.title}: study '{study.name}' in {storage.shown}",
        *(f"  {key}: {axis.description()}; default {study.default[key]}" for key, axis in study.space.items()),
        f"  scored on {study.split}: {study.config.content.videos.get('train')} videos to train on",
        f"  sampler {study.sampler.name}, pruner {study.pruner.name} at {study.looks - 1} points of a training",
        f"  trials: {request.total}, {len(ended)} ended, {left} to run by {workers} worker(s); "
        f"the first {study.seeds} are the default with its seeds, up to "
        f"{max(0, min(study.repeats * (study.seeds - 1), (request.total - study.seeds) // 2))} repeat the best",
        f"  budget: at most {left} × {study.iterations} = {left * study.iterations} iterations, before pruning",
    ]
    lines.append(f"  cost: {costs(study, Path(request.root), ended, left, workers)}")
    if request.options.launcher == "slurm":
        lines += ["", f"# each of {workers} Slurm job(s)", *slurm_workers.dry(request, study.name)]
    return lines


def costs(study: Study, root: Path, ended: list[Trial], left: int, workers: int) -> str:
    """Return the hours left in words: by what trials have taken so far, pruned ones included, else by the default's."""
    if not left:
        return "nothing is left to run"
    spent = [float(trial.facts["work"]) for trial in ended if trial.facts.get("executed")]
    if spent:
        hours = left * sum(spent) / len(spent) / 3600
        return f"about {hours:.2f} hours of work, {hours / workers:.2f} with {workers} worker(s), at the mean so far"
    plan = study.plan(study.default, UNUSED, root)
    trainings = {member.fingerprint for member in study.job(study.default, UNUSED).members}

    def of_trainings(costs: list[cost.Cost]) -> list[cost.Cost]:
        return [each for each in costs if trainings.issuperset(each.jobs)]

    try:
        prices = of_trainings(cost.costs(plan, {}))
        if any(each.device_seconds is None for each in prices):
            prices = of_trainings(cost.costs(plan, cost.count(plan)))
    except UnfitError as error:
        return f"unknown: {error}"
    unknown = [each for each in prices if each.device_seconds is None]
    if unknown:
        return f"unknown: {unknown[0].name}: {unknown[0].source}"
    hours = left * sum(each.device_seconds or 0 for each in prices) / 3600
    sources = ", ".join(dict.fromkeys(each.source for each in prices))
    return f"{hours:.2f} GPU-hours of training, before pruning, without evaluations; {sources}"
