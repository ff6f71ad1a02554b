"""A plan on a Slurm cluster: each launch is one job, submitted at once, chained to the jobs whose results it needs.

The supervisor runs inside the allocation, so nothing here has to stay: whoever submitted may leave, and
`harness status`, or the same command, comes back to it. A job's directory says which Slurm job has it (slurm.json).
"""

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from harness.common import child
from harness.common.console import logging_to_stderr
from harness.common.errors import HarnessError, UnfitError, UsageError, refused
from harness.common.progress import Progress
from harness.common.redaction import one_line
from harness.common.signals import PREEMPTED, Stopped, stop_signals
from harness.config import plugins
from harness.config.settings import RunOptions, resolve
from harness.jobdir.paths import Outcome, OutputDir, SlurmJob
from harness.launch import access, notification, requeues, runner, slurm_queue, slurm_submit
from harness.launch.launchers import _sbatch
from harness.launch.progress import JobProgress
from harness.launch.supervisor import follow
from harness.plan import saved_plans
from harness.plan.job import Job
from harness.plan.outcome import failed_input
from harness.plan.plan import Plan, launches
from harness.tracking.publisher import Silent, publisher_of

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at the journals
ASK = slurm_submit.ASK
ASKED = 5  # times that a queue is asked which does not answer
GONE = 20.0  # seconds that the files of a job that left the queue may take to be seen here


@dataclass(frozen=True)
class SlurmTask:
    """Some jobs of saved plans as a Slurm job. submitit pickles it, so it holds no secret."""

    root: Path
    plans: tuple[str, ...]
    only: tuple[str, ...]  # fingerprints
    options: RunOptions
    checkout: str | None = None  # the folder of the harness that submitted it

    @logging_to_stderr()
    def __call__(self) -> None:
        """Run inside the allocation. Ends with 1 where a job failed, 75 where a signal stopped it for good."""
        try:
            requeues.same_checkout(self.checkout)
            settings = resolve()
            options = replace(self.options, only=self.only, tracking_uri=settings.tracking_uri, notify=settings.notify)
            plan = Plan(tuple(saved_plans.restore(self.root, digest) for digest in self.plans), self.root)
            if idle := requeues.idle(plan, self.only, os.environ["SLURM_JOB_ID"]):
                notification.send(options.notify, "stuck", plan, idle)
                sys.exit(self.fail(HarnessError(idle), "stalled"))
            with stop_signals(), Progress() as progress:
                results = runner.run(plan, options, progress)
        except Stopped as stop:
            leave(stop, os.environ["SLURM_JOB_ID"])
        except Exception as error:
            sys.exit(self.fail(error))
        note_blocked(plan, results.failures, self.only)
        cancel_hopeless(plan, results.failures)
        notification.notify_of_results(plan, options, results.failures)
        if any(job.fingerprint in self.only for job in results.failures):
            sys.exit(1)

    def fail(self, error: Exception, status: str = "failed") -> int:
        """Log what ended the run itself, write it as the outcome of jobs without one; return the exit code."""
        refusal = refused(error) if isinstance(error, OSError) else error
        mine = isinstance(refusal, HarnessError)
        log.error(f"harness: {refusal}" if mine else "".join(traceback.format_exception(error)))
        code = refusal.exit_code if isinstance(refusal, HarnessError) else 1
        for fingerprint in self.only:
            files = OutputDir(self.root).job(fingerprint)
            outcome = files.outcome()
            if outcome is None or outcome.status == "preempted":
                files.folder.mkdir(parents=True, exist_ok=True)
                files.write_outcome(Outcome(status, one_line(refusal), code))
        return code

    def checkpoint(self) -> Any:
        """Return the same once more: what was reached lies in the root. submitit asks before it requeues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def leave(stop: Stopped, number: str) -> NoReturn:
    """End this Slurm job, which a signal has stopped: for good with 75, or to be taken up again."""
    log.info(f"stopped by {stop}: checkpoints are kept")
    if to_be_requeued(stop, number):
        os.kill(os.getpid(), signal.SIGUSR2)  # submitit's own handler requeues this job and ends it
        time.sleep(60)
    sys.exit(PREEMPTED)


def to_be_requeued(stop: Stopped, number: str) -> bool:
    """Return whether Slurm should run the job again: after a time limit or a preemption, not after scancel.

    A queue that does not answer is asked again; for good, no: the same command submits what is missing.
    """
    if stop.number in (signal.SIGUSR1, signal.SIGUSR2):
        return True
    if stop.number != signal.SIGTERM:
        return False
    for _ in range(ASKED):
        states = _sbatch.queue([number])
        if states is not None:
            return number in states and states[number].state == "RUNNING"
        time.sleep(LOOK)
    return False


def note_blocked(plan: Plan, failures: Mapping[Job, str], only: Sequence[str]) -> None:
    """Mark jobs of this Slurm job that were never begun, since an input left no result, as cancelled, and why."""
    for job, reason in failures.items():
        if job.fingerprint in only and not plan.jobdir(job).outcome_file.exists():
            slurm_submit.cancelled(plan, job, reason)


def cancel_hopeless(plan: Plan, failures: Mapping[Job, str]) -> None:
    """Cancel Slurm jobs none of whose jobs can run any more, and write down why."""
    reasons = {job: failed_input(job, failures) for job in plan.jobs if plan.state(job) != "done"}
    lost = {job: reason for job, reason in reasons.items() if reason is not None}
    for slurm_job, jobs in slurm_submit.by_slurm_job(plan).items():
        open_jobs = [job for job in jobs if plan.state(job) != "done"]
        if not open_jobs or any(job not in lost for job in open_jobs) or slurm_job.id == os.environ.get("SLURM_JOB_ID"):
            continue
        if slurm_queue.cancel(slurm_job):
            for job in open_jobs:
                slurm_submit.cancelled(plan, job, lost[job])


def run(plan: Plan, options: RunOptions, progress: Progress, detach: bool = False) -> runner.Results | None:
    """Submit what is missing, at most `max_jobs` at once, stay with it unless `detach`, and report.

    Raise UnfitError before anything is submitted, Stopped after a signal, which leaves the Slurm jobs alone.
    """
    missing = runner.missing(plan, options)
    if missing:
        probe(plan, options, missing)
    saved_plans.keep(plan, options.command)
    if missing:
        _sbatch.warn(options.slurm)
    submitter = slurm_submit.Submitter(plan, missing, partial(hand_in, plan, options), options.max_jobs)
    submitter.submit()
    if detach:
        submitter.wait()
        return None

    def over() -> bool:
        submitter.submit_later()
        return not submitter.left and all(
            slurm_submit.over(plan, job) for jobs in submitter.waiting.values() for job in jobs
        )

    accompany(plan, submitter.waiting, progress, over, lambda: bool(submitter.left))
    no_job = replace(options, only=(), rerun=None)  # `missing` has set aside what was asked
    results = runner.run(plan, no_job, progress)
    left = {
        job: f"Slurm job {slurm_job} ended before it was finished (see {log_path(plan, slurm_job.id)}); "
        "rerun the same command to continue"
        for slurm_job, jobs in submitter.waiting.items()
        for job in jobs
    }
    left = {job: why for job, why in (left | submitter.elsewhere).items() if plan.state(job) != "done"}
    left = {job: why for job, why in left.items() if job not in results.failures}
    if any(job not in submitter.elsewhere for job in left):  # whose Slurm job could tell nobody
        notification.send(options.notify, "failed", plan, next(iter(left.values())))
    executed = sum(plan.state(job) == "done" for job in missing)
    return replace(results, failures={**results.failures, **left}, executed=executed)


def probe(plan: Plan, options: RunOptions, missing: Sequence[Job]) -> None:
    """Raise UnfitError where the store does not answer or takes nothing from us; the plan's runs then end."""
    publisher = publisher_of(plan, runner.connected(options))
    try:
        publisher.probe(missing, options.command)
    except UnfitError:
        for experiment in plan.experiments:
            publisher.close(experiment, "FAILED")
        raise


def hand_in(plan: Plan, options: RunOptions, launch: Sequence[Job], after: Sequence[str]) -> SlurmJob:
    """Submit one launch. Raise Later where the queue is full, UnfitError where sbatch refuses."""
    submitter = executor(plan, launch, options, after)
    return _sbatch.identity(submitter, _sbatch.submit(submitter, task(plan, launch, options)))


def dry(plan: Plan, options: RunOptions) -> str:
    """Return the batch scripts that `submit` would hand to sbatch; numbers that are not known yet stand as <1>, <2>."""
    texts: list[str] = []
    numbers: dict[Job, str] = {}
    for at, launch in enumerate(launches([job for job in plan.jobs if plan.state(job) != "done"]), 1):
        after = sorted({numbers[needed] for job in launch for needed in job.inputs if needed in numbers})
        numbers |= dict.fromkeys(launch, f"<{at}>")
        head = f"# <{at}>: {', '.join(job.name for job in launch)}"
        texts.append(f"{head}\n{_sbatch.script(executor(plan, launch, options, after))}")
    return "\n".join(texts)


def executor(plan: Plan, launch: Sequence[Job], options: RunOptions, after: Sequence[str]) -> Any:
    """Return submitit's executor for one launch."""
    name = launch[0].name if len(launch) == 1 else f"{launch[0].name} and {len(launch) - 1} more"
    sbatch = requeues.with_warning(plan, launch, options.slurm)
    return _sbatch.executor(plan.output.slurm_log("%j").parent, sbatch, f"harness {name}", after)


def task(plan: Plan, launch: Sequence[Job], options: RunOptions) -> SlurmTask:
    """Return a launch as a Slurm task."""
    digests = tuple(experiment.digest for experiment in plan.experiments)
    fingerprints = tuple(job.fingerprint for job in launch)
    return SlurmTask(plan.root.resolve(), digests, fingerprints, handed_on(options), str(plugins.PROJECT))


def handed_on(options: RunOptions) -> RunOptions:
    """Return the run options of a Slurm job, without a secret: it asks its own environment for MLflow and `notify`."""
    return replace(options, slurm={}, rerun=None, only=None, max_jobs=None, tracking_uri=None, notify=None, inside=True)


def log_path(plan: Plan, number: str) -> str:
    """Return the path of a Slurm job's log."""
    return str(plan.output.slurm_log(number))


class Queued:
    """Slurm jobs as the queue has them: each change is said once, and it is known when none is left."""

    def __init__(self, jobs: Collection[SlurmJob]) -> None:
        self.jobs = jobs  # a dict's keys may grow
        self._told: dict[str, str] = {}
        self._asked, self._seen = -ASK, time.monotonic()

    def gone(self) -> bool:
        """Return whether none was there for GONE seconds; the queue is asked every ASK seconds, if it answers."""
        if time.monotonic() - self._asked >= ASK:
            self._asked = time.monotonic()
            queue = slurm_queue.ask(self.jobs)
            for job, state in queue.states.items():
                line = f"Slurm job {job}: {state.state}{f' ({state.reason})' if state.reason else ''}"
                if self._told.get(job.id) != line:
                    self._told[job.id] = line
                    log.info(line)
            if queue.silent or any(state.live for state in queue.states.values()):
                self._seen = time.monotonic()
        return time.monotonic() - self._seen > GONE


def accompany(
    plan: Plan,
    waiting: Mapping[SlurmJob, Sequence[Job]],
    progress: Progress,
    over: Callable[[], bool],
    to_come: Callable[[], bool] = lambda: False,
) -> None:
    """Show the plan's Slurm jobs until they are `over`, or none is left in the queue and none is `to_come`.

    Raise Stopped after a signal, which touches none of them.
    """
    followed: dict[Job, JobProgress] = {}
    queued, silent = Queued(waiting), Silent()
    try:
        while True:
            for job in [job for jobs in waiting.values() for job in jobs]:
                follow(plan, silent, progress, followed.setdefault(job, JobProgress(job)))
            if over() or (queued.gone() and not to_come()):
                return
            time.sleep(LOOK)
    except Stopped:
        numbers = ", ".join(map(str, waiting))
        log.info(f"the Slurm jobs continue ({numbers}); `harness status` shows them, scancel ends them")
        raise


def with_sbatch(options: RunOptions, flags: Sequence[str], plan: Plan) -> RunOptions:
    """Add sbatch's options, and how many nodes and ranks they come to.

    Raise UsageError where they are not said, or do not divide the micro-batch.
    """
    sbatch = _sbatch.parse(flags, options.slurm)
    nodes = int(sbatch.get("nodes", 1)) if options.nodes is None else options.nodes
    nproc = _sbatch.ranks({**sbatch, "nodes": nodes}) if options.nproc is None else options.nproc
    if nproc is not None and min(nodes, nproc) < 1:
        raise UsageError(f"{nodes} nodes × {nproc} ranks: give at least one of each")
    if nproc is None:
        raise UsageError("how many ranks per node? Give --slurm gpus_per_node=8 (or gres=gpu:8), or --nproc on CPUs")
    micro = plan.config.micro_batch
    if micro % (nodes * nproc):
        sizes = ", ".join(str(n) for n in range(1, micro + 1) if micro % n == 0)
        raise UsageError(f"{nodes} nodes × {nproc} ranks do not divide the micro-batch of {micro}; choose from {sizes}")
    return replace(options, nodes=nodes, nproc=nproc, slurm={**sbatch, "nodes": nodes})


def leave_running(root: Path) -> str:
    """Run this command once more in a session of its own, without --detach; return the path of its log."""
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
