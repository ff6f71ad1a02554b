"""`harness cancel`: what is at work or waits of a plan, ended with its checkpoints.

One's own runs get a signal: a process of this machine SIGINT, as by Ctrl-C, a Slurm job that has begun the same by
scancel; one that waits leaves the queue. Another person's run, and one's own on another machine, is asked by a file in
the job's directory, which its supervisor sees within a second or two.
"""

import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.common import machine
from harness.common.atomic_files import JsonObject, read_json
from harness.common.errors import UnfitError
from harness.common.locks import Lock
from harness.common.signals import stop_signals
from harness.jobdir import lease
from harness.jobdir.lease import Holder
from harness.jobdir.paths import JobDir, OutputDir, SlurmJob
from harness.jobdir.replay import tail
from harness.jobdir.stop_request import StopRequest
from harness.launch import slurm_queue
from harness.launch.launchers import _sbatch
from harness.launch.slurm_queue import Queue
from harness.launch.slurm_submit import by_request, by_slurm_job, cancelled, over
from harness.launch.status import TAIL, rehearsing
from harness.launch.supervisor import GRACE, TELL
from harness.plan.job import Job
from harness.plan.plan import Plan

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at what is to end
MARGIN = 30.0  # seconds beside a supervisor's own grace: its look, its store, Slurm's ways


@dataclass(frozen=True)
class Cancellation:
    """The end of one job that was at work or waited."""

    fingerprint: str  # empty for a study's worker and a rehearsal
    name: str
    state: str  # stopped (was at work) | cancelled (waited) | left (goes on)
    reason: str  # where it stands, or why it goes on
    slurm: str | None = None  # number of the Slurm job


@dataclass
class Canceller:
    """A plan that is being ended."""

    plan: Plan

    def __post_init__(self) -> None:
        self.results: dict[Job, Cancellation] = {}
        self.awaited: dict[Job, Holder] = {}  # asked to end
        self._slurm: dict[Job, str] = {}
        self._begun: list[SlurmJob] = []  # ours, which were sent a signal
        self._signalled: set[tuple[int, str | None]] = set()  # pid and start of a process

    def run(self) -> list[Cancellation]:
        """End all, and wait until it has ended; results in the plan's order. Raise Stopped after a signal to us."""
        open_jobs = [job for job in self.plan.jobs if self.plan.state(job) != "done"]
        submitted = {
            slurm_job: [job for job in jobs if job in open_jobs] for slurm_job, jobs in by_slurm_job(self.plan).items()
        }
        with Lock(self.plan.output.slurm_lock) if submitted else nullcontext():  # nothing is submitted meanwhile
            self._ask_waiting_runs()
            self._end_slurm_jobs(submitted, slurm_queue.ask(submitted))
        left = [job for job in open_jobs if job not in self.results and job not in self.awaited]
        holders = {job: holder for job in left if (holder := self._holder(job)) is not None}  # one run may have several
        for job, holder in holders.items():
            self._end_holder(job, holder)
        self._wait()
        return [self.results[job] for job in self.plan.jobs if job in self.results]

    def _ask_waiting_runs(self) -> None:
        """Ask our runs that hold nothing: they wait for another's job, or for room in the queue."""
        if self.plan.output.plans.is_dir():
            for path in self.plan.stop_files:
                try:
                    StopRequest().write(path)
                except OSError as error:
                    log.warning(f"{path}: {error.strerror}: a run of yours that is only waiting was not notified")

    def _end_slurm_jobs(self, submitted: Mapping[SlurmJob, list[Job]], queue: Queue) -> None:
        """Take what waits out of the queue first, lest it begins when what it waits for ends."""
        live = {slurm_job: jobs for slurm_job, jobs in submitted.items() if queue.live(slurm_job)}
        holders = {job: holder for jobs in live.values() for job in jobs if (holder := self._holder(job)) is not None}
        for slurm_job in sorted(live, key=lambda slurm_job: queue.states[slurm_job].state == "RUNNING"):
            jobs = live[slurm_job]
            self._slurm |= dict.fromkeys(jobs, slurm_job.id)
            running = queue.states[slurm_job].state == "RUNNING"
            begun = running and any(holders[job].user == slurm_job.user for job in jobs if job in holders)
            ours = slurm_queue.cancel(slurm_job, "INT" if begun else None)
            self._begun += [slurm_job] if ours and begun else []
            for job in jobs:
                if job in holders:
                    self.awaited |= {job: holders[job]} if ours and begun else {}
                elif ours:
                    cancelled(self.plan, job, by_request(StopRequest().who))
                    self._note(job, "cancelled", "removed from Slurm's queue")
                else:
                    self._note(job, "left", f"waiting as Slurm job {slurm_job.whose}; {whose_right(slurm_job)}")
        for slurm_job in queue.silent:
            for job in submitted[slurm_job]:
                if self._holder(job) is None and not over(self.plan, job):
                    self._slurm[job] = slurm_job.id
                    self._note(job, "left", f"Slurm job {slurm_job.whose} cannot be queried from here")

    def _end_holder(self, job: Job, holder: Holder) -> None:
        """Have whoever holds a job end."""
        if holder.alive and holder.user == machine.user() and self._signal(holder):
            self.awaited[job] = holder
            return
        path = self.plan.jobdir(job).stop_file
        try:
            StopRequest(holder.number).write(path)
        except OSError as error:
            why = f"{holder.who} is running it, and you may not ask it to end ({path}: {error.strerror}); "
            self._note(job, "left", f"{why}ask {holder.user}")
        else:
            log.info(f"{job.name}: {holder.who} is running it and was asked to end")
            self.awaited[job] = holder

    def _signal(self, holder: Holder) -> bool:
        """Send a process what Ctrl-C does, once; return whether that was ours to do."""
        process = (holder.pid, holder.born)
        if process not in self._signalled:
            try:
                os.kill(holder.pid, signal.SIGINT)
            except ProcessLookupError:
                pass
            except PermissionError:
                return False
            self._signalled.add(process)
        return True

    def _wait(self) -> None:
        """Wait until those that were asked have ended, as long as a supervisor gives its ranks."""
        begun, logged = time.monotonic(), False
        while left := [job for job in self.awaited if job not in self.results]:
            longest = patience(self.plan.jobdir(job) for job in left)
            for job in left:
                holder, now = self.awaited[job], self._holder(job)
                if now is None or now.number != holder.number:
                    self._note(job, "stopped", standing(self.plan.jobdir(job), now))
                elif time.monotonic() - begun > longest:
                    self._note(job, "left", f"{holder.who} was asked to end, but has not within {longest:.0f} s")
            if not logged and time.monotonic() - begun > TELL:
                logged = True
                log.info(f"waiting for {len(left)} job(s) to finish and save a step, at most {longest:.0f} s")
            with stop_signals():
                time.sleep(LOOK)
        while slurm_queue.any_live(self._begun) and time.monotonic() - begun < GRACE + MARGIN:  # they tell MLflow
            with stop_signals():
                time.sleep(4 * LOOK)

    def _holder(self, job: Job) -> Holder | None:
        return lease.current_holder(self.plan.directory(job))

    def _note(self, job: Job, state: str, reason: str) -> None:
        self.results[job] = Cancellation(job.fingerprint, job.name, state, reason, self._slurm.get(job))


@dataclass
class RehearsalCanceller:
    """The rehearsal of an output directory, which is being ended: all that are at it look for its request."""

    root: Path

    def __post_init__(self) -> None:
        self.output = OutputDir(self.root)
        self.slurm_job = SlurmJob.of(read_json(self.output.rehearsal_file))

    def run(self) -> list[Cancellation]:
        """End it, and wait until it has ended; nothing where none is at work. Raise Stopped after a signal to us."""
        if (who := self._at_work()) is None:
            return []
        try:
            StopRequest().write(self.output.rehearsal_stop)
        except OSError as error:
            why = f"you may not ask it to end ({self.output.rehearsal_stop}: {error.strerror})"
            return [self._result("left", f"{who} is running it, and {why}")]
        if self.slurm_job is not None and self._holder() is None:
            if slurm_queue.cancel(self.slurm_job):
                return [self._result("cancelled", "removed from Slurm's queue")]
            return [self._result("left", f"waiting as {who}; it will end within seconds of its start")]
        log.info(f"the dry run in {self.output.rehearsal}: {who} was asked to end")
        begun, longest = time.monotonic(), patience(OutputDir(self.output.rehearsal).job_dirs())
        while (who := self._at_work()) is not None:
            if time.monotonic() - begun > longest:
                return [self._result("left", f"{who} was asked to end, but has not within {longest:.0f} s")]
            time.sleep(LOOK)
        return [self._result("stopped", "it leaves no result; the same command starts it again")]

    def _at_work(self) -> str | None:
        """Return who rehearses, or is to; None where nobody does."""
        if (holder := self._holder()) is not None:
            return holder
        live = self.slurm_job is not None and rehearsing(self.root) is not None
        return f"Slurm job {self.slurm_job.whose}" if live and self.slurm_job is not None else None

    def _holder(self) -> str | None:
        """Return who has begun to rehearse."""
        lock = Lock(self.output.rehearsal_lock, patience=0)
        if not lock.path.exists():
            return None
        try:
            with lock:
                return None
        except UnfitError:
            return lock.holder()

    def _result(self, state: str, reason: str) -> Cancellation:
        number = None if self.slurm_job is None else self.slurm_job.id
        return Cancellation("", f"the dry run in {self.output.rehearsal}", state, reason, number)


def patience(jobs: Iterable[JobDir]) -> float:
    """Return the seconds that the slowest of some jobs may take to save."""
    return GRACE + MARGIN + 2 * max((tail(files.events_file, TAIL).pace for files in jobs), default=0.0)


def standing(files: JobDir, now: Holder | None = None) -> str:
    """Return how far a job is that its run has let go, and who has it now."""
    outcome = files.outcome()
    if outcome is not None and outcome.status == "finished":
        return "it had already finished"
    steps, videos = files.checkpoint_steps(), len(files.video_files())
    kept = f"saved at step {max(steps)}" if steps else f"{videos} video(s) kept" if videos else "nothing to save yet"
    return kept if now is None else f"{kept}; {now.who} has taken it over"


def whose_right(slurm_job: SlurmJob) -> str:
    """Return who can take a Slurm job out of the queue that we cannot."""
    if slurm_job.user in (None, _sbatch.user()):
        return f"its file does not say whether that is still this job: check, and scancel {slurm_job}"
    return f"only {slurm_job.user} can remove it from the queue"


def lines(results: list[Cancellation]) -> Iterator[str]:
    """Yield a line a job, for people."""
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        number = f"Slurm {result.slurm}: " if result.slurm else ""
        fingerprint = f"{result.fingerprint}  " if result.fingerprint else ""
        yield f"{fingerprint}{result.state:<9}  {result.name:<{width}}  {number}{result.reason}"


def as_json(results: list[Cancellation]) -> JsonObject:
    """Return what `cancel --json` prints."""
    return {"schema": 1, "jobs": [asdict(result) for result in results]}
