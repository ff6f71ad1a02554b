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
from harness.common.progress import Progress
from harness.common.signals import Stopped, stop_signals
from harness.config.settings import resolve
from harness.jobdir.paths import OutputDir
from harness.launch import slurm_jobs
from harness.launch.launchers import _sbatch
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
            with stop_signals():
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


def task(request: Request) -> SlurmTask:
    """Return a worker's task without the storage's URL and MLflow's address."""
    root = str(Path(request.root).resolve())
    return SlurmTask(replace(request, storage=None, root=root, options=slurm_jobs.handed_on(request.options)))


def run(request: Request, workers: int, keeper: Keeper) -> None:
    """Submit workers, except those that are at it already, and stay until the study has its trials.

    Raise UnfitError where none is left before that, Stopped after a signal, which leaves the Slurm jobs alone.
    """
    ids = submit(request, workers, keeper.study.name, keeper.storage)
    try:
        accompany(request, ids, keeper)
    except Stopped:
        log.info(f"the Slurm jobs go on ({', '.join(ids)}); the same command comes back to them, scancel ends them")
        raise
    _sbatch.cancel([number for number, state in (_sbatch.queue(ids) or {}).items() if state.state == "PENDING"])


def submit(request: Request, workers: int, study: str, storage: Storage) -> list[str]:
    """Put workers into the queue until there are so many; the numbers of all."""
    note = storage.folder / "slurm.json"
    queued = _sbatch.queue(read_json(note).get("ids", [])) or {}
    ids = [number for number, state in queued.items() if state.live]
    submitter = executor(request, study)
    if workers > 1 and not storage.database:
        log.warning(
            "workers on several nodes: their locks must hold on this file system, or give --storage postgresql://…"
        )
    with environment(URL, storage.whole):
        while len(ids) < workers:
            ids.append(_sbatch.submit(submitter, task(request)))
            write_json(note, {"ids": ids})
            log.info(f"Slurm job {ids[-1]}: a worker of '{study}', see {log_path(request, ids[-1])}")
    return ids


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


def accompany(request: Request, ids: Sequence[str], keeper: Keeper) -> None:
    """Log how trials end and what the queue says, until the study has its trials. Raise UnfitError."""
    ended = {trial.number for trial in keeper.trials() if trial.ended}
    queued = slurm_jobs.Queued(ids)
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
                f"the Slurm jobs {', '.join(ids)} have ended with {len(ended)} of {request.total} trials "
                f"(see {log_path(request, ids[-1])}); the same command goes on"
            )
        time.sleep(LOOK)


def dry(request: Request, study: str) -> list[str]:
    """Return the batch script that each worker's sbatch would be given."""
    return _sbatch.script(executor(request, study)).splitlines()
