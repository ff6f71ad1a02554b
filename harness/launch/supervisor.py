"""A launch's life, seen from outside: start the worker, follow the jobs' journals, and say truly how each one ended.

Ranks write files; this is the one process that talks to the tracking store. What counts is what the
files say: a job is finished when its outcome or all its videos are there, whatever a process exited with.
"""

import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Protocol

from harness.common.atomic_files import JsonObject, write_json
from harness.common.errors import HarnessError, UnfitError, refused
from harness.common.progress import Progress
from harness.common.redaction import one_line
from harness.common.signals import Stopped, stop_signals
from harness.config.settings import RankOptions
from harness.data import manifest
from harness.jobdir import pruning
from harness.jobdir.events import read_events
from harness.jobdir.lease import Lease
from harness.jobdir.paths import JobDir, Outcome
from harness.jobdir.replay import Replay
from harness.jobdir.stop_request import StopRequest
from harness.launch.launchers._log import last_line
from harness.launch.progress import JobProgress
from harness.plan import source_changes
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Plan
from harness.plan.spec import to_json
from harness.tracking.publisher import Silent

log = logging.getLogger(__name__)

POLL = 0.1  # seconds between two looks at the files
GRACE = 60  # seconds that a worker has to leave a checkpoint after a signal, and two steps besides
UNKILLABLE = 120.0  # seconds that killed ranks may take to end; Slurm's KillWait is 30 by default
TELL = 8.0  # seconds without a sign of the ranks after which a person is told what is waited for
HANGING = 30  # seconds that ranks may wait for one that has failed before they are ended


class Launcher(Protocol):
    """The contract of a file in harness/launch/launchers: its class Launcher(nproc, logs)."""

    log: Path

    def warm(self) -> None:
        """Get ready for the first launch while other things are done; may do nothing."""

    def start(self, directories: Sequence[Path]) -> None:
        """Start a launch without waiting for it."""

    def running(self) -> bool:
        """Return whether it is still at work."""

    def signal(self, number: int) -> None:
        """Pass a signal on."""

    def close(self) -> None:
        """End the worker."""


class Watch:
    """Why a launch that goes on should be ended; asked at every look."""

    def __init__(self, plan: Plan, launch: Mapping[Job, Lease], stall: float) -> None:
        self.plan, self.launch, self.stall = plan, launch, stall  # seconds; 0: for ever
        self._beats: list[int] = []
        self._moved = self._asked = time.monotonic()
        self._failed: float | None = None  # when all jobs had failed

    def __call__(self) -> str | None:
        """Return 'superseded', 'asked', 'stalled', 'failed' (and ranks hang behind the one that failed), or None."""
        if any(lease.superseded for lease in self.launch.values()):
            return "superseded"
        now = time.monotonic()
        if now - self._asked < 1:
            return None
        self._asked = now
        if any(self._asked_to_end(job, lease) for job, lease in self.launch.items()):
            return "asked"
        (job, lease), *_ = self.launch.items()
        beats = [path.stat().st_mtime_ns for path in stacks(self.plan, job, lease)]
        if beats != self._beats:  # another time than before, by whatever clock
            self._beats, self._moved = beats, now
        if self.stall and now - self._moved > 1.1 * self.stall + 2:  # the ranks' own watchdogs have written by then
            return "stalled"
        outcomes = [self.plan.jobdir(job).outcome() for job in self.launch]
        if all(outcome is not None and outcome.status == "failed" for outcome in outcomes):
            self._failed = self._failed or now
            return "failed" if now - self._failed > HANGING else None
        return None

    def _asked_to_end(self, job: Job, lease: Lease) -> bool:
        """Return whether somebody wants this attempt's run to end (`harness cancel`)."""
        request = StopRequest.read(self.plan.jobdir(job).stop_file)
        if request is None or request.attempt != lease.number:
            return False
        log.info(f"{job.name}: {request.who} asked this run to end (`harness cancel`)")
        return True


def stacks(plan: Plan, job: Job, lease: Lease) -> list[Path]:
    """Return the files that ranks touch while they work, and write their threads' stacks to if they stall."""
    return sorted(plan.jobdir(job).stacks.glob(f"attempt-{lease.number}-*.txt"))


def supervise(
    plan: Plan,
    launch: Mapping[Job, Lease],
    launcher: Launcher,
    publisher: Silent,
    progress: Progress,
    how: JsonObject,
) -> dict[Job, Outcome]:
    """Run one launch, whose jobs this process holds, to its end and return every job's outcome.

    Raise Stopped after a signal, once the worker has left its checkpoints and the store knows of it. A job whose
    lease was lost (this process slept, and another took it for dead) is 'superseded': nothing more is written of it.
    Where something goes wrong here the launch is ended, and the store is told that what has not ended has failed.
    """
    try:
        return to_its_end(plan, launch, launcher, publisher, progress, how)
    except Exception as error:
        with suppress(HarnessError):  # that they do not end: `error` came first
            end(launcher)
        for job, lease in launch.items():
            if lease.ours():
                publisher.end(job, left_by(plan, job) or Outcome("failed", one_line(error)))
        raise


def left_by(plan: Plan, job: Job) -> Outcome | None:
    """Return the outcome that the ranks have written; None where there is none, or none that can be read."""
    try:
        return plan.jobdir(job).outcome()
    except UnfitError:
        return None


def to_its_end(
    plan: Plan,
    launch: Mapping[Job, Lease],
    launcher: Launcher,
    publisher: Silent,
    progress: Progress,
    how: JsonObject,
) -> dict[Job, Outcome]:
    """Return the outcomes of `supervise` as long as no file fails."""
    followed = {job: JobProgress(job) for job in launch}
    stall = 60 * float(how.get("stall", RankOptions.stall))
    stopped: Stopped | None = None
    ended: str | None = None
    shared = {"launch": [job.fingerprint for job in launch]} if len(launch) > 1 else {}  # one pass over the frames
    with stop_signals():
        try:
            for job, lease in launch.items():
                prepare(plan, job, lease, {**how, **shared})
                followed[job].offset = read_events(plan.jobdir(job).events_file)[1]
                publisher.begin(job)
            launcher.start([plan.directory(job) for job in launch])
            ended = wait(plan, launcher, publisher, progress, followed, Watch(plan, launch, stall))
            if ended == "asked":
                raise Stopped(signal.SIGINT)
            if ended is not None:
                end(launcher)
        except Stopped as stop:
            stopped = stop
    if stopped is not None:
        stop_launch(plan, launcher, publisher, progress, followed, stopped)
    if not all(lease.ours() for lease in launch.values()):  # asked now: the count looks every few seconds only
        if stopped is not None:
            raise stopped
        return {job: Outcome("superseded", "another run took over, believing this one dead") for job in launch}
    word = f"no step for {stall / 60:g} minutes; stacks of all ranks: {plan.jobdir(next(iter(launch))).stacks}"
    outcomes = {job: conclude(plan, job, launcher, stopped, word if ended == "stalled" else None) for job in launch}
    if stopped is None and any(outcome.status in ("preempted", "cancelled") for outcome in outcomes.values()):
        stopped = Stopped(signal.SIGTERM)  # a scheduler signalled the ranks themselves
    for job in launch:
        follow(plan, publisher, progress, followed[job])
        publisher.end(job, outcomes[job])
    if stopped is not None:  # also where the launch was through by then: what comes after it must not begin
        raise stopped
    return outcomes


def end(launcher: Launcher) -> None:
    """End a launch at once. Raise HarnessError where the kernel does not end it, as on a disk that has gone."""
    launcher.signal(signal.SIGKILL)
    deadline = time.monotonic() + UNKILLABLE
    while launcher.running():
        if time.monotonic() > deadline:
            raise HarnessError(
                f"ranks have not ended {UNKILLABLE:.0f} s after a kill: look for them (log: {launcher.log})"
            )
        time.sleep(POLL)


def prepare(plan: Plan, job: Job, lease: Lease, how: JsonObject) -> None:
    """Write a job's directory for the worker; an outcome of an earlier attempt is taken away. Raise UnfitError."""
    files = plan.jobdir(job)
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
        files.outcome_file.unlink(missing_ok=True)
        pruning.forget(files.folder)
        spec = plan.spec(job)
        options = {f.name: how[f.name] for f in fields(RankOptions) if f.name in how}
        spec = replace(spec, launch=replace(spec.launch, attempt=lease.number, **options))
        write_json(files.job_file, to_json(spec))  # JSON is YAML
        attempt_id = files.how().get("made") or uuid.uuid4().hex  # kept over the attempts of one run
        write_json(files.how_file, {**how, "made": attempt_id, "sources": source_changes.digests(job)})
    except OSError as error:
        raise refused(error, files.folder) from error


def wait(
    plan: Plan,
    launcher: Launcher,
    publisher: Silent,
    progress: Progress,
    followed: Mapping[Job, JobProgress],
    enough: Callable[[], str | None],
    awaited: str = "its ranks have not responded yet",
) -> str | None:
    """Follow the journals until the launch has ended, or until there is a reason to end it, which is returned."""
    begun, silent = time.monotonic(), True
    while launcher.running():
        before = [followed[job].offset for job in followed]
        for job in followed:
            follow(plan, publisher, progress, followed[job])
        if silent and before != [followed[job].offset for job in followed]:
            silent = False
        elif silent and time.monotonic() - begun > TELL:
            silent = False
            log.info(f"waiting for {next(iter(followed)).name}: {awaited} (log: {launcher.log})")
        if (reason := enough()) is not None:
            return reason
        time.sleep(POLL)
    return None


def stop_launch(
    plan: Plan,
    launcher: Launcher,
    publisher: Silent,
    progress: Progress,
    followed: Mapping[Job, JobProgress],
    stopped: Stopped,
) -> None:
    """Pass the signal on and wait for the checkpoints; after `grace` or a second signal the worker is killed."""
    launcher.signal(stopped.number)
    deadline = time.monotonic() + grace(followed.values())
    with stop_signals():
        try:
            late = wait(
                plan,
                launcher,
                publisher,
                progress,
                followed,
                lambda: "late" if time.monotonic() > deadline else None,
                f"its ranks are finishing a step and saving it, at most {deadline - time.monotonic():.0f} s",
            )
        except Stopped:
            late = "asked twice"
    if late:
        end(launcher)


def grace(followed: Iterable[JobProgress]) -> float:
    """Return the seconds until ranks that were told to stop have finished the step at hand and saved it."""
    return GRACE + 2 * max(
        (progress.replay.pace for progress in followed if isinstance(progress.job, Train)), default=0.0
    )


def follow(plan: Plan, publisher: Silent, progress: Progress, followed: JobProgress) -> None:
    """Read what a job's journal has gained, tell the store, and show how far it is."""
    events, followed.offset = read_events(plan.jobdir(followed.job).events_file, followed.offset)
    if not events:
        return
    followed.replay.hear(events)
    publisher.hear(followed.job, events)
    followed.show(progress)


def conclude(plan: Plan, job: Job, launcher: Launcher, stopped: Stopped | None, stalled: str | None) -> Outcome:
    """Return a job's outcome; one that cannot be written is a failure, for the next run could not read it."""
    try:
        return outcome_of(plan, job, launcher, stopped, stalled)
    except OSError as error:
        why = refused(error, plan.directory(job))
        return Outcome("failed", str(why), why.exit_code)


def outcome_of(plan: Plan, job: Job, launcher: Launcher, stopped: Stopped | None, stalled: str | None) -> Outcome:
    """Return a job's outcome by its files; an evaluation is finished when every video of its split is there."""
    files = plan.jobdir(job)
    outcome = files.outcome()
    if isinstance(job, Evaluate):
        wanted = set(plan.videos(job))
        there = {path.stem for path in files.video_files()}
        if wanted <= there and (outcome is None or outcome.status == "finished"):
            outcome = finish_evaluation(files, len(wanted))
    if outcome is None:
        status = stopped.status if stopped else "stalled" if stalled else "lost"
        reason = str(stopped) if stopped else stalled or f"the worker died: {last_line(launcher.log)}"
        outcome = Outcome(status, reason, exit_code=1)
        files.write_outcome(outcome)
    return outcome


def finish_evaluation(files: JobDir, videos: int) -> Outcome:
    """Write the outcome that no rank can know alone: all videos are there."""
    replay = Replay.of(files.events_file)
    outcome = Outcome("finished", seconds=replay.seconds, step=videos, peak=replay.peak, provenance=replay.provenance)
    manifest.seal(files.folder)
    files.write_outcome(outcome)
    return outcome


def describe(launcher: str, nproc: int, command: Sequence[str], more: JsonObject) -> JsonObject:
    """Return a launch's provenance, never identity. `more`: the source's commit, the ranks' options."""
    return {"launcher": launcher, "nproc": nproc, "command": " ".join(command), "host": os.uname().nodename, **more}
