"""A plan on a Slurm cluster: each launch is one job, submitted at once, chained to the jobs whose results it needs.

The supervisor runs inside the allocation, so nothing here has to stay: whoever submitted may leave, and
`harness status`, or the same command, comes back to it. A job's directory says which Slurm job has it (slurm.json).
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock

from harness.common import child
from harness.common.atomic_files import JsonObject, write_json
from harness.common.console import say
from harness.common.errors import HarnessError, UnfitError, UsageError, refused
from harness.common.redaction import one_line
from harness.common.signals import PREEMPTED, Stopped, stop_signals
from harness.config.settings import Resolved, resolve
from harness.jobdir.paths import Outcome, OutputDir, Submission
from harness.launch import access, runner
from harness.launch.launchers import _sbatch
from harness.launch.progress import Display
from harness.launch.supervisor import Progress, Show, follow
from harness.plan import saved_plans as plans
from harness.plan.job import Job
from harness.plan.outcome import OVER
from harness.plan.plan import Plan, launches
from harness.tracking.client import Tracking
from harness.tracking.publisher import Silent

LOOK = 1.0  # seconds between two looks at the journals
ASK = 15.0  # seconds between two looks at Slurm's queue, which all users share
ASKED = 5  # times that a queue is asked which does not answer
GONE = 20.0  # seconds that the files of a job that left the queue may take to be seen here


@dataclass(frozen=True)
class Work:
    """What a Slurm job does: some jobs of plans that the root keeps. submitit pickles it; it holds no secret."""

    root: Path
    plans: tuple[str, ...]
    only: tuple[str, ...]  # fingerprints
    how: JsonObject  # of runner.How

    def __call__(self) -> None:
        """Run inside the allocation. Ends with 1 where a job failed, 75 where a signal stopped it for good."""
        try:
            plan = Plan(tuple(plans.restore(self.root, digest) for digest in self.plans), self.root)
            how = runner.How(**self.how, only=self.only, tracking_uri=resolve().tracking_uri, inside=True)
            with stop_signals(), Display() as display:
                results = runner.run(plan, how, display.show, say)
        except Stopped as stop:
            leave(stop, os.environ["SLURM_JOB_ID"])
        except Exception as error:
            sys.exit(self.fail(error))
        note_blocked(plan, results.failures, self.only)
        cancel_hopeless(plan, results.failures)
        if any(job.fingerprint in self.only for job in results.failures):
            sys.exit(1)

    def fail(self, error: Exception) -> int:
        """Say what ended the run itself, also as the outcome of its jobs that have none; the exit code."""
        known = refused(error) if isinstance(error, OSError) else error
        mine = isinstance(known, HarnessError)
        say(f"harness: {known}" if mine else "".join(traceback.format_exception(error)))
        code = known.exit_code if isinstance(known, HarnessError) else 1
        for fingerprint in self.only:
            files = OutputDir(self.root).job(fingerprint)
            if not files.outcome_file.exists():
                files.folder.mkdir(parents=True, exist_ok=True)
                files.write_outcome(Outcome("failed", one_line(known), code))
        return code

    def checkpoint(self) -> Any:
        """The same once more: what was reached lies in the root. submitit asks before it requeues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def leave(stop: Stopped, number: str) -> NoReturn:
    """End this Slurm job, which a signal has stopped: for good with 75, or to be taken up again."""
    say(f"stopped by {stop}: checkpoints are kept")
    if to_be_requeued(stop, number):
        os.kill(os.getpid(), signal.SIGUSR2)  # submitit's own handler requeues this job and ends it
        time.sleep(60)
    sys.exit(PREEMPTED)


def to_be_requeued(stop: Stopped, number: str) -> bool:
    """After the signal before a time limit or a preemption, yes; after scancel, whose job runs no more, no.

    A queue that does not answer is asked again; for good, no: the same command submits what is missing.
    """
    if stop.number in (signal.SIGUSR1, signal.SIGUSR2):
        return True
    if stop.number != signal.SIGTERM:
        return False
    for _ in range(ASKED):
        known = _sbatch.queue([number])
        if known is not None:
            return number in known and known[number].state == "RUNNING"
        time.sleep(LOOK)
    return False


def note_blocked(plan: Plan, failures: Mapping[Job, str], only: Sequence[str]) -> None:
    """Jobs of this Slurm job that were never begun, since one before it left no result: cancelled, and why."""
    for job, reason in failures.items():
        if job.fingerprint in only and not plan.jobdir(job).outcome_file.exists():
            cancelled(plan, job, reason)


def cancelled(plan: Plan, job: Job, reason: str) -> None:
    """Write down that a job will not be run, and why."""
    plan.directory(job).mkdir(parents=True, exist_ok=True)
    plan.jobdir(job).write_outcome(Outcome("cancelled", reason, exit_code=1))


def cancel_hopeless(plan: Plan, failures: Mapping[Job, str]) -> None:
    """Take Slurm jobs out of the queue none of whose jobs can run any more, and write down why."""
    lost = {job: reason for job in plan.jobs if plan.state(job) != "done" if (reason := needs(job, failures))}
    for number, jobs in by_number(plan).items():
        open_jobs = [job for job in jobs if plan.state(job) != "done"]
        if open_jobs and all(job in lost for job in open_jobs) and number != os.environ.get("SLURM_JOB_ID"):
            _sbatch.cancel([number])
            for job in open_jobs:
                cancelled(plan, job, lost[job])


def needs(job: Job, failures: Mapping[Job, str]) -> str | None:
    """Which failed job stands in the way of another."""
    broken = [needed for needed in job.inputs if needed in failures]
    return f"needs '{broken[0].name}', which failed" if broken else None


def by_number(plan: Plan) -> dict[str, list[Job]]:
    """Jobs of a plan by the Slurm job that was submitted for them last."""
    found: dict[str, list[Job]] = {}
    for job in plan.jobs:
        submitted = plan.jobdir(job).submission()
        if submitted is not None:
            found.setdefault(submitted.id, []).append(job)
    return found


def run(
    plan: Plan, how: runner.How, show: Show, say: Callable[[str], None], detach: bool = False
) -> runner.Results | None:
    """Submit what is missing, stay with it unless `detach`, and report.

    Raises UnfitError before anything is submitted, Stopped after a signal, which leaves the Slurm jobs alone.
    """
    missing = runner.missing(plan, how, say)
    if missing and not how.offline:
        Tracking(how.tracking_uri, how.prefix).connect()
    plans.keep(plan, how.command)
    with FileLock(plan.output.slurm_lock, timeout=600):  # two who look and then submit would do so twice
        waiting = submit(plan, missing, how, say)
    if detach:
        return None
    accompany(plan, waiting, show, say, lambda: all(ended_here(plan, job) for jobs in waiting.values() for job in jobs))
    results = runner.run(plan, replace(how, only=(), rerun=None), show, say)  # `missing` has set aside what was asked
    left = {
        job: f"Slurm job {number} ended before it was done (see {log(plan, number)}); the same command goes on"
        for number, jobs in waiting.items()
        for job in jobs
        if plan.state(job) != "done" and job not in results.failures
    }
    return replace(results, failures={**results.failures, **left}, executed=len(missing) - len(left))


def submit(plan: Plan, missing: Sequence[Job], how: runner.How, say: Callable[[str], None]) -> dict[str, list[Job]]:
    """Put what is missing into the queue, except what is in it already; all Slurm jobs of the plan by number.

    Raises UnfitError where the queue cannot be asked: what is in it would be submitted twice.
    """
    queued = _sbatch.queue(by_number(plan))
    if queued is None:
        raise UnfitError("squeue does not answer, so what waits already is not known: nothing was submitted; try again")
    there = {
        job: number
        for number, jobs in by_number(plan).items()
        if number in queued and queued[number].live
        for job in jobs
    }
    waiting: dict[str, list[Job]] = {}
    for launch in launches(missing):
        todo = [job for job in launch if job not in there]
        for job in launch:
            if job in there:
                waiting.setdefault(there[job], []).append(job)
        if not todo:
            continue
        after = sorted({there[needed] for job in todo for needed in job.inputs if needed in there}, key=int)
        number = _sbatch.submit(made(plan, todo, how, after), work(plan, todo, how))
        for job in todo:
            there[job] = number
            files = plan.jobdir(job)
            files.folder.mkdir(parents=True, exist_ok=True)
            files.outcome_file.unlink(missing_ok=True)
            write_json(files.slurm_file, vars(Submission(number, job.name, tuple(after), log(plan, number))))
        waiting[number] = todo
        behind = f" after {', '.join(after)}" if after else ""
        say(f"Slurm job {number}{behind}: {', '.join(job.name for job in todo)}")
    return waiting


def dry(plan: Plan, how: runner.How) -> str:
    """The batch scripts that `submit` would hand to sbatch; numbers that are not known yet stand as <1>, <2>."""
    texts: list[str] = []
    place: dict[Job, str] = {}
    for at, launch in enumerate(launches([job for job in plan.jobs if plan.state(job) != "done"]), 1):
        after = sorted({place[needed] for job in launch for needed in job.inputs if needed in place})
        place |= dict.fromkeys(launch, f"<{at}>")
        head = f"# <{at}>: {', '.join(job.name for job in launch)}"
        texts.append(f"{head}\n{_sbatch.script(made(plan, launch, how, after))}")
    return "\n".join(texts)


def made(plan: Plan, launch: Sequence[Job], how: runner.How, after: Sequence[str]) -> Any:
    """submitit's executor for one launch."""
    name = launch[0].name if len(launch) == 1 else f"{launch[0].name} and {len(launch) - 1} more"
    return _sbatch.executor(plan.output.slurm_log("%j").parent, how.slurm, f"harness {name}", after)


def work(plan: Plan, launch: Sequence[Job], how: runner.How) -> Work:
    """What a Slurm job is to do, as a value."""
    digests = tuple(experiment.digest for experiment in plan.experiments)
    return Work(plan.root.resolve(), digests, tuple(job.fingerprint for job in launch), handed_on(how))


def handed_on(how: runner.How) -> JsonObject:
    """What a Slurm job is told of how to run; where MLflow is it finds out from its own environment."""
    kept: JsonObject = {"launcher": how.launcher, "nproc": how.nproc, "nodes": how.nodes, "offline": how.offline}
    kept |= {"prefix": how.prefix, "command": how.command, "stall": how.stall, "deterministic": how.deterministic}
    return kept


def log(plan: Plan, number: str) -> str:
    """Where a Slurm job writes what it says."""
    return str(plan.output.slurm_log(number))


class Queued:
    """Slurm jobs as the queue has them: each change is said once, and it is known when none is left."""

    def __init__(self, ids: Iterable[str], say: Callable[[str], None]) -> None:
        self.ids, self.say = list(ids), say
        self._told: dict[str, str] = {}
        self._asked, self._seen = -ASK, time.monotonic()

    def gone(self) -> bool:
        """Whether for GONE seconds none of them was there; the queue is asked every ASK seconds, and may not answer."""
        if time.monotonic() - self._asked >= ASK:
            self._asked = time.monotonic()
            found = _sbatch.queue(self.ids)
            for number, state in (found or {}).items():
                said = f"Slurm job {number}: {state.state}{f' ({state.reason})' if state.reason else ''}"
                if self._told.get(number) != said:
                    self._told[number] = said
                    self.say(said)
            if found is None or any(state.live for state in found.values()):
                self._seen = time.monotonic()
        return time.monotonic() - self._seen > GONE


def accompany(
    plan: Plan,
    waiting: Mapping[str, Sequence[Job]],
    show: Show,
    say: Callable[[str], None],
    over: Callable[[], bool],
) -> None:
    """Show the plan's Slurm jobs until they are `over`, or none is left in the queue.

    Raises Stopped after a signal, which touches none of them.
    """
    progress = {job: Progress(job) for jobs in waiting.values() for job in jobs}
    queued, silent = Queued(waiting, say), Silent()
    try:
        while True:
            for one in progress.values():
                follow(plan, silent, show, one)
            if queued.gone() or over():
                return
            time.sleep(LOOK)
    except Stopped:
        say(f"the Slurm jobs go on ({', '.join(waiting)}); `harness status` shows them, scancel ends them")
        raise


def ended_here(plan: Plan, job: Job) -> bool:
    """Whether a job's files say that it is over and will not be taken up again by Slurm."""
    outcome = plan.jobdir(job).outcome()
    return outcome is not None and outcome.status in OVER


def asked(how: runner.How, flags: Sequence[str], settings: Resolved, plan: Plan) -> runner.How:
    """With the options of sbatch, and how many nodes and ranks they come to.

    Raises UsageError where they are not said, or do not divide the micro-batch.
    """
    options = _sbatch.parse(flags, settings.slurm)
    nodes = int(options.get("nodes", 1)) if settings.nodes is None else settings.nodes
    nproc = _sbatch.ranks(options) if how.nproc is None else how.nproc
    if nproc is not None and min(nodes, nproc) < 1:
        raise UsageError(f"{nodes} nodes × {nproc} ranks: give one of each at least")
    if nproc is None:
        raise UsageError("how many ranks has a node? Give --slurm gpus_per_node=8 (or gres=gpu:8), or --nproc on CPUs")
    micro = plan.config.micro_batch
    if micro % (nodes * nproc):
        sizes = ", ".join(str(n) for n in range(1, micro + 1) if micro % n == 0)
        raise UsageError(f"{nodes} nodes × {nproc} ranks do not divide the micro-batch of {micro}; these do: {sizes}")
    return replace(how, nodes=nodes, nproc=nproc, slurm={**options, "nodes": nodes})


def leave_running(root: Path) -> str:
    """The command that is running, once more in a session of its own, without --detach; where it says what it does."""
    access.writable(root)
    OutputDir(root).logs.mkdir(exist_ok=True)
    path = OutputDir(root).logs / f"detached-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    words = [word for word in sys.argv[1:] if word != "--detach"]
    with path.open("w") as file:
        subprocess.Popen(
            child.python("-m", "harness.cli", *words),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return str(path)
