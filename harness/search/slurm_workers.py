"""A study's workers as Slurm jobs: each is one worker, in an allocation of its own; all share the storage and the root.

Nothing here has to stay: the workers go on by themselves, and the same command comes back to them. The storage's URL,
which may hold a password, travels in the jobs' environment, neither in a command line nor in what submitit pickles.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.common.atomic_files import read_json, write_json
from harness.common.console import logging_to_stderr
from harness.common.errors import HarnessError, UnfitError, refused
from harness.common.locks import Lock
from harness.common.progress import Progress
from harness.common.signals import Stopped, stop_signals
from harness.config.settings import resolve
from harness.jobdir.paths import OutputDir, SlurmJob, StudyDir
from harness.jobdir.stop_request import StopRequest, obeyed
from harness.launch import slurm_jobs, slurm_queue
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import Later
from harness.search.backend import Storage
from harness.search.loop import in_words
from harness.search.request import Request
from harness.search.storage import Keeper

log = logging.getLogger(__name__)

URL = "HARNESS_STORAGE"  # the variable that holds it
LOOK = 2.0  # seconds between two looks at the storage


@dataclass(frozen=True)
class SlurmTask:
    """One worker of a study as a Slurm job. submitit pickles it, so it holds no secret."""

    request: Request  # but for the storage and MLflow's address: a job learns them where it runs
    stop: StopRequest | None = None  # the last request to end before the search that submitted it

    @logging_to_stderr()
    def __call__(self) -> None:
        """Run inside the allocation. Ends with an error's own exit code, 75 where a signal stopped it for good."""
        from harness.search import command  # which imports this file

        number = os.environ["SLURM_JOB_ID"]
        try:
            if URL not in os.environ:
                raise UnfitError(f"{URL} did not reach this job: --slurm export must include ALL")
            options = replace(self.request.options, tracking_uri=resolve().tracking_uri)
            request = replace(self.request, storage=os.environ[URL], options=options)
            with stop_signals(), obeyed(request.study_dir().stop_file, self.stop):
                command.work(request, int(number), Progress())
        except Stopped as stop:
            slurm_jobs.leave(stop, number)
        except (HarnessError, OSError) as why:
            error = refused(why) if isinstance(why, OSError) else why
            log.error(f"harness: {error}")
            sys.exit(error.exit_code)

    def checkpoint(self) -> Any:
        """Return the same once more: what was reached lies in the root. submitit asks before it requeues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def with_sbatch(request: Request, flags: Sequence[str]) -> Request:
    """Return the request with the options of sbatch, and the nodes and ranks that they give. Raise UsageError."""
    study = request.make()
    plan = study.plan(study.default, study.config["seed"], Path(request.root))
    return replace(request, options=slurm_jobs.with_sbatch(request.options, flags, plan))


def executor(request: Request, study: str) -> Any:
    """Return submitit's executor for a worker."""
    folder = OutputDir(Path(request.root)).slurm_log("%j").parent
    return _sbatch.executor(folder, request.options.slurm, f"harness search {study}")


def task(request: Request, before: StopRequest | None = None) -> SlurmTask:
    """Return a worker's task without the storage's URL and MLflow's address."""
    root = str(Path(request.root).resolve())
    return SlurmTask(replace(request, storage=None, root=root, options=slurm_jobs.handed_on(request.options)), before)


def run(request: Request, workers: int, keeper: Keeper, before: StopRequest | None = None) -> None:
    """Submit workers, except those that are at it already, and stay until the study has its trials.

    They end at another request than `before`. Raise UnfitError where none is left before that, Stopped after a signal,
    which leaves the Slurm jobs alone.
    """
    submitted = submit(request, workers, keeper.study.name, keeper.storage, before)
    try:
        accompany(request, submitted, keeper)
    except Stopped:
        numbers = ", ".join(map(str, submitted))
        log.info(
            f"the Slurm jobs continue ({numbers}); the same command reconnects to them, "
            f"`harness cancel --study {keeper.study.name}` ends them"
        )
        raise
    for slurm_job, state in slurm_queue.ask(submitted).states.items():
        if state.state == "PENDING":
            slurm_queue.cancel(slurm_job)


def submit(
    request: Request, workers: int, study: str, storage: Storage, before: StopRequest | None = None
) -> list[SlurmJob]:
    """Put workers into the queue until there are so many; all of them.

    Raise Later where the queue cannot be asked: workers that are in it would be submitted twice.
    """
    submitter = executor(request, study)
    if workers > 1 and not storage.database:
        log.warning(
            "workers on several nodes: their locks must hold on this file system, or give --storage postgresql://…"
        )
    output = OutputDir(Path(request.root))
    output.folder.mkdir(parents=True, exist_ok=True)
    with Lock(output.slurm_lock), environment(URL, storage.whole):  # two who look and then submit would do so twice
        submitted = at_work(storage)
        while len(submitted) < workers:
            submitted.append(_sbatch.identity(submitter, _sbatch.submit(submitter, task(request, before))))
            jobs = [slurm_job.json for slurm_job in submitted]
            write_json(
                StudyDir(storage.folder).slurm_file, {"ids": [slurm_job.id for slurm_job in submitted], "jobs": jobs}
            )
            number = submitted[-1].id
            log.info(f"Slurm job {number}: a worker of '{study}', see {log_path(request, number)}")
    return submitted


def at_work(storage: Storage) -> list[SlurmJob]:
    """Return the study's Slurm jobs that wait or run; another's that cannot be asked about from here count too.

    Raise Later where one of ours cannot be asked about.
    """
    submitted = noted(StudyDir(storage.folder))
    queue = slurm_queue.ask(submitted)
    for slurm_job in queue.silent:
        if slurm_job.user in (None, _sbatch.user()):
            raise Later(f"squeue does not answer about Slurm job {slurm_job.whose}: no worker was submitted; try again")
    return [slurm_job for slurm_job in submitted if queue.live(slurm_job) or slurm_job in queue.silent]


def noted(study: StudyDir) -> list[SlurmJob]:
    """Return the Slurm jobs that were submitted for a study last."""
    content = read_json(study.slurm_file)
    entries = content.get("jobs") or [{"id": number} for number in content.get("ids", [])]
    return [slurm_job for entry in entries if (slurm_job := SlurmJob.of(entry)) is not None]


def log_path(request: Request, number: str) -> str:
    """Return the path of a Slurm job's log."""
    return str(OutputDir(Path(request.root)).slurm_log(number))


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set a variable that sbatch hands on to its job."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def accompany(request: Request, submitted: Sequence[SlurmJob], keeper: Keeper) -> None:
    """Log how trials end and what the queue says, until the study has its trials. Raise UnfitError."""
    ended = {trial.number for trial in keeper.trials() if trial.ended}
    queued = slurm_jobs.Queued(submitted)
    while True:
        try:
            trials = keeper.trials()
        except UnfitError as error:  # away for a moment
            keeper.complain(error)
            trials = []
        for trial in trials:
            if trial.ended and trial.number not in ended:
                ended.add(trial.number)
                name = keeper.study.label(trial.params)
                log.info(f"trial {trial.number} {name}: {in_words(trial)} ({len(ended)} of {request.total})")
        if len(ended) >= request.total:
            return
        if queued.gone():
            raise UnfitError(
                f"the Slurm jobs {', '.join(map(str, submitted))} have ended with {len(ended)} of {request.total} "
                f"trials (see {log_path(request, submitted[-1].id)}); rerun the same command to continue"
            )
        time.sleep(LOOK)


def dry(request: Request, study: str) -> list[str]:
    """Return the batch script that each worker's sbatch would be given."""
    return _sbatch.script(executor(request, study)).splitlines()
