"""A launch's life, seen from outside: start the worker, follow the jobs' journals, and say truly how each one ended.

Ranks write files; this is the one process that talks to the tracking store (design §2.4). What counts is what the
files say: a job is finished when its outcome or all its videos are there, whatever a process exited with.
"""

import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.core import content, journal, pruning, record, sources
from harness.core.errors import refused
from harness.core.job import Evaluate, Job, Train
from harness.core.lease import Lease
from harness.core.plan import Plan, read_json
from harness.core.stopping import Stopped, stop_signals
from harness.publish import Publisher

POLL = 0.1  # seconds between two looks at the files
GRACE = 60  # seconds that a worker has to leave a checkpoint after a signal
ENDED = {
    **{"finished": "FINISHED", "pruned": "FINISHED", "preempted": "KILLED", "cancelled": "KILLED"},
    **{"failed": "FAILED", "lost": "FAILED"},
}


class Launcher(Protocol):
    """What a file of harness/launchers provides as its class Launcher(nproc, logs)."""

    log: Path

    def start(self, directories: Sequence[Path]) -> None:
        """Start a launch without waiting for it."""

    def running(self) -> bool:
        """Whether it is still at work."""

    def signal(self, number: int) -> None:
        """Pass a signal on."""

    def close(self) -> None:
        """End the worker."""


@dataclass
class Progress:
    """How far a job is, for whoever shows it."""

    job: Job
    step: int = 0
    steps: int = 0
    values: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    offset: int = 0  # bytes of the journal that were read


Show = Callable[[Progress], None]


def supervise(
    plan: Plan,
    launch: Mapping[Job, Lease],
    launcher: Launcher,
    publisher: Publisher,
    show: Show,
    how: Mapping[str, Any],
) -> dict[Job, dict[str, Any]]:
    """Run one launch, whose jobs this process holds, to its end and return every job's outcome.

    Raises Stopped after a signal, once the worker has left its checkpoints and the store knows of it. A job whose
    lease was lost (this process slept, and another took it for dead) is 'superseded': nothing more is written of it.
    """
    progress = {job: Progress(job) for job in launch}
    stopped: Stopped | None = None
    with stop_signals():
        try:
            for job, lease in launch.items():
                prepare(plan, job, lease, how)
                progress[job].offset = journal.read(plan.directory(job) / "events.jsonl")[1]
                publisher.begin(job)
            launcher.start([plan.directory(job) for job in launch])
            if not wait(plan, launcher, publisher, show, progress, lambda: any(one.lost for one in launch.values())):
                return superseded(launcher, launch)
        except Stopped as stop:
            stopped = stop
    if stopped is not None:
        stop_launch(plan, launcher, publisher, show, progress, stopped)
    outcomes = {job: conclude(plan, job, launcher, stopped) for job in launch}
    if stopped is None and any(outcome["status"] in ("preempted", "cancelled") for outcome in outcomes.values()):
        stopped = Stopped(signal.SIGTERM)  # a scheduler signalled the ranks themselves
    for job in launch:
        follow(plan, publisher, show, progress[job])
        publisher.end(job, ENDED[outcomes[job]["status"]], outcomes[job])
    if stopped is not None and any(outcome["status"] != "finished" for outcome in outcomes.values()):
        raise stopped
    return outcomes


def superseded(launcher: Launcher, launch: Mapping[Job, Lease]) -> dict[Job, dict[str, Any]]:
    """Another run has taken a job of the launch: end the worker at once, and leave every word on it to that run."""
    launcher.signal(signal.SIGKILL)
    while launcher.running():
        time.sleep(POLL)
    return {job: {"status": "superseded", "reason": "another run took this one for dead"} for job in launch}


def prepare(plan: Plan, job: Job, lease: Lease, how: Mapping[str, Any]) -> None:
    """Write a job's directory for the worker; an outcome of an earlier attempt is taken away. Raises UnfitError."""
    directory = plan.directory(job)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "outcome.json").unlink(missing_ok=True)
        pruning.forget(directory)
        record.write_json(directory / "job.yaml", {**job.spec(), "attempt": lease.number})  # JSON is YAML
        made = read_json(directory / "how.json").get("made") or uuid.uuid4().hex  # kept over the attempts of one run
        record.write_json(directory / "how.json", {**how, "made": made, "sources": sources.digests(job)})
    except OSError as error:
        raise refused(error, directory) from error


def wait(
    plan: Plan,
    launcher: Launcher,
    publisher: Publisher,
    show: Show,
    progress: Mapping[Job, Progress],
    enough: Callable[[], bool],
) -> bool:
    """Follow the journals until the launch has ended; False if there was reason to end it first."""
    while launcher.running():
        for job in progress:
            follow(plan, publisher, show, progress[job])
        if enough():
            return False
        time.sleep(POLL)
    return True


def stop_launch(
    plan: Plan,
    launcher: Launcher,
    publisher: Publisher,
    show: Show,
    progress: Mapping[Job, Progress],
    stopped: Stopped,
) -> None:
    """Pass the signal on and wait for the checkpoints; after GRACE seconds or a second signal the worker is killed."""
    launcher.signal(stopped.number)
    deadline = time.monotonic() + GRACE
    with stop_signals():
        try:
            ended = wait(plan, launcher, publisher, show, progress, lambda: time.monotonic() > deadline)
        except Stopped:
            ended = False
    if not ended:
        launcher.signal(signal.SIGKILL)


def follow(plan: Plan, publisher: Publisher, show: Show, progress: Progress) -> None:
    """Read what a job's journal has gained, tell the store, and show how far it is."""
    job = progress.job
    events, progress.offset = journal.read(plan.directory(job) / "events.jsonl", progress.offset)
    if not events:
        return
    for event in events:
        if event["event"] == "begin":
            progress.steps = event["steps"]
        if event["event"] == "log":
            progress.messages.append(event["message"])
        if "step" in event and event["event"] in ("begin", "progress", "checkpoint", "metrics"):
            progress.step = event["step"]
        if event["event"] in ("progress", "metrics"):
            progress.values.update(event.get("values") or {})
    publisher.hear(job, events)
    show(progress)


def conclude(plan: Plan, job: Job, launcher: Launcher, stopped: Stopped | None) -> dict[str, Any]:
    """How a job ended; an end that cannot be written down is none, for the next run would not know of it."""
    try:
        return ended(plan, job, launcher, stopped)
    except OSError as error:
        why = refused(error, plan.directory(job))
        return {"status": "failed", "reason": str(why), "exit_code": why.exit_code}


def ended(plan: Plan, job: Job, launcher: Launcher, stopped: Stopped | None) -> dict[str, Any]:
    """How a job ended, by its files; an evaluation is finished when every video of its split is there."""
    directory = plan.directory(job)
    outcome = read_json(directory / "outcome.json")
    if isinstance(job, Evaluate):
        wanted = set(content.build_dataset(job.config).videos(job.split))
        there = {path.stem for path in (directory / "videos").glob("*.npz")}
        if wanted <= there and outcome.get("status") in (None, "finished"):
            outcome = finish_evaluation(directory, len(wanted))
    if not outcome:
        status = stopped.status if stopped else "lost"
        reason = str(stopped) if stopped else f"the worker died: {last_line(launcher.log)}"
        outcome = {"status": status, "reason": reason, "exit_code": 1}
        record.write_json(directory / "outcome.json", outcome)
    return outcome


def finish_evaluation(directory: Path, videos: int) -> dict[str, Any]:
    """Write the outcome that no rank can know alone: all videos are there."""
    events, _ = journal.read(directory / "events.jsonl")
    begins = [event for event in events if event["event"] == "begin"]
    kept = ("device", "threads", "world", "versions")
    outcome = {
        "status": "finished",
        "reason": None,
        "exit_code": 0,
        "seconds": spent(events),
        "step": videos,
        "provenance": {key: begins[-1][key] for key in kept if key in begins[-1]} if begins else {},
    }
    record.write_json(directory / "outcome.json", outcome)
    return outcome


def spent(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds between a job's begin and last event, added over its attempts."""
    total, begun = 0.0, None
    for event, after in zip(events, [*events[1:], None], strict=True):
        if event["event"] == "begin":
            begun = event["time"]
        if begun is not None and (after is None or after["event"] == "begin"):
            total += event["time"] - begun
    return total


def last_line(log: Path) -> str:
    """The last line a worker wrote before it died."""
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1][:200]} (see {log})" if said else f"it left no word (see {log})"


def describe(launcher: str, nproc: int, command: Sequence[str], source: Mapping[str, Any]) -> dict[str, Any]:
    """How a launch is run: provenance, never identity."""
    return {"launcher": launcher, "nproc": nproc, "command": " ".join(command), "host": os.uname().nodename, **source}


__all__ = ["ENDED", "Launcher", "Progress", "Stopped", "Train", "describe", "supervise"]
