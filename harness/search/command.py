"""`harness search`: a study from its file to its report. Trials are jobs; the storage says what is next.

Request ──▶ Study (plan) ──▶ Keeper (storage: Optuna) ──▶ loop: take, run, publish ──▶ reports.search
                                                            └── study_publisher: MLflow
"""

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.common.console import say
from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.common.signals import Stopped
from harness.config import compose as configuration
from harness.jobdir.paths import OutputDir
from harness.launch import runner
from harness.launch.progress import Display
from harness.plan import cost, study
from harness.plan.study import Study, Trial
from harness.results import rows
from harness.results.rows import Context
from harness.results.table import Report, write
from harness.search import confirm, local_workers, slurm_workers
from harness.search.loop import Worker
from harness.search.storage import OWN, Keeper, Storage, seen
from harness.search.study_publisher import SilentStudy, study_publisher_of
from harness.tracking.client import Tracking
from reports import search as report_of
from reports.search.finding import find

UNUSED = -1  # a seed that nobody runs: jobs that are wholly missing, like those of any other
WAYS = (
    "launcher",
    "nproc",
    "tracking_uri",
    "prefix",
    "stall",
    "deterministic",
    "nodes",
    "slurm",
    "inside",
)  # of Request, as of runner.How


@dataclass(frozen=True)
class Request:
    """What to search, and how: all that a worker needs."""

    search: str
    total: int  # trials of the study
    words: tuple[str, ...] = ()  # key=value
    preset: str = "demo"
    root: str = "runs"
    folders: tuple[str, ...] = ()
    study: str | None = None  # its name in the storage
    storage: str | None = None
    launcher: str = "auto"
    nproc: int | None = None
    stall: float = 10.0  # minutes
    deterministic: bool = False
    nodes: int = 1
    slurm: Mapping[str, Any] = field(default_factory=dict)  # options of sbatch; with launcher slurm
    inside: bool = False  # an allocation
    offline: bool = False
    tracking_uri: str | None = None
    prefix: str = ""
    command: tuple[str, ...] = tuple(sys.argv)

    def make(self) -> Study:
        """The study. Raises UsageError."""
        if self.total < 1:
            raise UsageError(f"--trials {self.total}: must be at least 1")
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.study):
            raise UsageError(f"--study {self.study!r}: a name is letters, digits, '_', '-' and '.'")
        split, words = study.split_of(self.words)
        composed = configuration.compose(self.preset, words, self.folders)
        return study.make(self.search, composed, Path(self.root), split, self.study)

    def folder(self, name: str) -> Path:
        """Where a study keeps what is not Optuna's."""
        return Path(self.root) / "searches" / name

    def tracking(self) -> Tracking | None:
        """MLflow, connected; None where it is told nothing."""
        return runner.connected(self.how, say)

    @property
    def how(self) -> runner.How:
        """How its jobs are run."""
        given = asdict(self)
        return runner.How(offline=self.offline, command=self.command, **{key: given[key] for key in WAYS})


@dataclass(frozen=True)
class Done:
    """What an invocation came to."""

    study: Study
    trials: list[Trial]
    report: Report
    folder: Path
    where: str  # how to open the store; empty where it was told nothing
    away: str | None = None  # why it was told nothing, where it did not answer
    failures: Mapping[str, str] = field(default_factory=dict)  # jobs of the confirmation -> reason


def work(request: Request, index: int, display: Display) -> None:
    """Be one worker of a study until it has its trials. Raises Stopped after a signal."""
    made, root = request.make(), Path(request.root)
    keeper = Keeper(made, Storage(request.storage, request.folder(made.name)), say)
    telling = study_publisher_of(made, root, request.tracking(), say)
    launcher, facts = runner.choose(made.plan(made.default, made.config["seed"], root), request.how)
    launcher.log = launcher.log.with_name(f"{made.name}-{index}-{launcher.log.name}")
    try:
        Worker(made, keeper, telling, launcher, root, facts, display, say).run(request.total)
    finally:
        launcher.close()


def run(request: Request, workers: int, display: Display) -> Done:
    """Take a study to its number of trials, tell MLflow and report. Raises Stopped after a signal."""
    made, root = request.make(), Path(request.root)
    shares = shared(request, workers)
    runner.writable(root)
    runner.fit(made.config)
    runner.choose(made.plan(made.default, made.config["seed"], root), request.how)  # what cannot be, before all else
    storage = settled(request, made)
    keeper = Keeper(made, storage, say)
    telling = study_publisher_of(made, root, request.tracking(), say)
    done = sum(trial.ended for trial in keeper.trials())
    if done < request.total:
        say(f"study '{made.name}' in {storage.shown}: {done} of {request.total} trials have ended; {workers} worker(s)")
        runner.fetch(made.config, say)
        telling.mark("RUNNING")
        try:
            if request.launcher == "slurm":
                slurm_workers.run(request, workers, keeper, say)
            elif workers == 1:
                work(request, 0, display)
            else:
                local_workers.run(
                    asdict(request), shares, lambda: sum(t.ended + len(t.looks) for t in keeper.trials()), say
                )
        except (Stopped, HarnessError, OSError) as why:
            status = "KILLED" if isinstance(why, Stopped) else "FAILED"
            broken_off(request, made, keeper, telling, status)
            raise
    return conclude(request, made, keeper, telling, "FINISHED")


def shared(request: Request, workers: int) -> list[dict[str, str]]:
    """Each worker's part of this machine; none by Slurm. Raises UsageError for more workers than fit."""
    if request.launcher != "slurm":
        return local_workers.share(workers, request.nproc)
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    return []


def broken_off(request: Request, made: Study, keeper: Keeper, telling: SilentStudy, status: str) -> None:
    """Report what there is; what is away or full hides nothing of why it broke off."""
    try:
        conclude(request, made, keeper, telling, status)
    except (HarnessError, OSError):
        with suppress(HarnessError, OSError):
            telling.mark(status)


def confirmed(request: Request, done: Done, seeds: int, display: Display) -> Done:
    """Train the best and the default anew, compare them on val, and report again. Raises Stopped after a signal."""
    best = find(done.trials).best
    if best is None:
        raise UsageError(f"--confirm {seeds}: no trial beside the default is complete; give more --trials")
    made, root = done.study, Path(request.root)
    came_to, ran = confirm.run(made, best, seeds, root, request.how, display.show, say)
    for job, reason in ran.failures.items():
        say(f"failed: {job.name}: {reason}")
    keeper = Keeper(made, Storage(request.storage, request.folder(made.name)), say)
    if came_to is not None:
        keeper.remember(came_to)
    finished = conclude(request, made, keeper, study_publisher_of(made, root, request.tracking(), say), "FINISHED")
    return replace(finished, failures={job.name: reason for job, reason in ran.failures.items()})


def conclude(request: Request, made: Study, keeper: Keeper, telling: SilentStudy, status: str) -> Done:
    """Tell MLflow what it lacks, and write the report; while others are at it, the study's run goes on."""
    trials = keeper.trials()
    made_report = report(request, made, keeper, trials)
    folder = OutputDir(Path(request.root)).reports / f"search_{made.name}"
    write(made_report, folder)
    where, away = "", None
    try:
        telling.catch_up(trials)
        where = telling.report(made_report, folder, "RUNNING" if keeper.at_work() else status)
    except UnfitError as error:
        away = str(error)
    return Done(made, trials, made_report, folder, where, away)


def report(request: Request, made: Study, keeper: Keeper, trials: list[Trial]) -> Report:
    """The study's report, from its storage alone."""
    return report_of.render(made, trials, keeper.importance(), keeper.confirmed(), context(request, made))


def context(request: Request, made: Study) -> Context:
    """What a report of the study says around its numbers."""
    (experiment,) = made.plan(made.default, made.config["seed"], Path(request.root)).experiments
    return rows.context(experiment, request.command)


def settled(request: Request, made: Study) -> Storage:
    """The study's storage. Raises UsageError where it was begun in another one, so that none begins anew unseen."""
    storage = the_same(request, made)
    storage.folder.mkdir(parents=True, exist_ok=True)
    storage.open()  # before it is noted: a place that does not answer is none
    (storage.folder / "storage").write_text(storage.place)
    return storage


def the_same(request: Request, made: Study) -> Storage:
    """The storage that is asked for. Raises UsageError where the study was begun in another one."""
    storage = Storage(request.storage, request.folder(made.name))
    noted = storage.folder / "storage"
    begun = noted.read_text() if noted.is_file() else storage.place
    if begun.endswith(f"searches/{made.name}/{OWN}"):  # notes of before said where it lay then
        begun = OWN
    if begun != storage.place:
        where = f"its own folder, {storage.folder}" if begun == OWN else begun
        again = "leave --storage out" if begun == OWN else "give --storage again"
        raise UsageError(f"the study '{made.name}' was begun in {where}: {again}, or a new name by --study")
    return storage


def dry(request: Request, workers: int) -> list[str]:
    """What a run would do: trials, budget and cost. Makes nothing."""
    made = request.make()
    shared(request, workers)
    storage = the_same(request, made)
    ended = [trial for trial in seen(made, storage) if trial.ended]
    left = max(0, request.total - len(ended))
    lines = [
        f"{made.title}: study '{made.name}' in {storage.shown}",
        *(f"  {key}: {axis.said()}; default {made.default[key]}" for key, axis in made.space.items()),
        f"  scored on {made.split}: {made.config.content.videos.get('train')} videos to train on",
        f"  sampler {made.sampler.name}, pruner {made.pruner.name} at {made.looks - 1} moments of a training",
        f"  trials: {request.total}, {len(ended)} ended, {left} to run by {workers} worker(s); "
        f"the first {made.seeds} are the default with its seeds",
        f"  budget: at most {left} × {made.iterations} = {left * made.iterations} iterations, before pruning",
    ]
    lines.append(f"  cost: {costs(made, Path(request.root), ended, left, workers)}")
    if request.launcher == "slurm":
        lines += ["", f"# each of {workers} Slurm job(s)", *slurm_workers.dry(request, made.name)]
    return lines


def costs(made: Study, root: Path, ended: list[Trial], left: int, workers: int) -> str:
    """Hours that are left: by what trials have taken so far, pruned ones included, else by what the default takes."""
    if not left:
        return "nothing is left to run"
    spent = [float(trial.facts["work"]) for trial in ended if trial.facts.get("executed")]
    if spent:
        hours = left * sum(spent) / len(spent) / 3600
        return f"about {hours:.2f} hours of work, {hours / workers:.2f} with {workers} worker(s), at the mean so far"
    plan = made.plan(made.default, UNUSED, root)
    trainings = {member.fingerprint for member in made.job(made.default, UNUSED).members}

    def found_by(counted: Mapping[str, Any]) -> list[cost.Cost]:
        return [one for one in cost.costs(plan, counted) if trainings.issuperset(one.jobs)]

    try:
        found = found_by({})
        found = found_by(cost.count(plan)) if any(one.device_seconds is None for one in found) else found
    except UnfitError as error:
        return f"not known: {error}"
    unknown = [one for one in found if one.device_seconds is None]
    if unknown:
        return f"not known: {unknown[0].name}: {unknown[0].source}"
    hours = left * sum(one.device_seconds or 0 for one in found) / 3600
    how = ", ".join(dict.fromkeys(one.source for one in found))
    return f"{hours:.2f} GPU-hours of training, before pruning, evaluations left out; {how}"
