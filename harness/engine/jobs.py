"""A job's directory as a rank writes it: the journal, and how the job ended."""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from harness.common.errors import REMEDIES, HarnessError, UnfitError, refused
from harness.common.redaction import redact
from harness.common.signals import PREEMPTED
from harness.engine import checkpoint, error_messages, runtime
from harness.engine.runtime import Rank
from harness.jobdir import lease
from harness.jobdir.events import Begin, End, Journal
from harness.jobdir.paths import JobDir, Outcome
from harness.jobdir.replay import Replay
from harness.plan import spec
from harness.plan.spec import JobSpec


class Ending(NamedTuple):
    """The end of a job."""

    status: str  # finished | failed | preempted | cancelled | paused | pruned | superseded
    step: int = 0
    reason: str | None = None
    exit_code: int = 0


def ours(folder: Path, job: JobSpec) -> Callable[[], None]:
    """Return a function that raises SupersededError once a later attempt has the job; call it before writing."""
    return partial(lease.check, folder, job.launch.attempt)


def begin(
    folder: Path, rank: Rank, step: int, steps: int, unit: str, allowed: Callable[[], None] = lambda: None
) -> Journal:
    """Open the journal for a further attempt and say where it stands; the first rank calls this."""
    allowed()
    path = JobDir(folder).events_file
    attempt = 1 + Replay.of(path).attempts
    diary = Journal(path, allowed)
    diary.write(Begin(attempt=attempt, step=step, steps=steps, unit=unit, **runtime.provenance(rank)))
    return diary


def end(folder: Path, ending: Ending, seconds: float, rank: Rank) -> None:
    """Write outcome.json; a failure that another rank has written stands, since ours may only follow from it."""
    files = JobDir(folder)
    if ending.status != "finished" and _failed(files):
        return
    peak, provenance = runtime.peak(rank.device), runtime.provenance(rank)
    outcome = Outcome(ending.status, ending.reason, ending.exit_code, seconds, ending.step, peak, provenance)
    files.write_outcome(outcome)
    if rank.first:
        diary = Journal(files.events_file)
        diary.write(End(status=ending.status))
        diary.close()


def failure(folder: Path, error: BaseException) -> Ending:
    """Return the ending that an exception makes, in one line without passwords; its traceback is added to error.txt.

    Where that cannot be written the disk is what failed: torch and safetensors say so in words of their own.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with JobDir(folder).error_file.open("a", encoding="utf-8") as file:
            file.write(redact("".join(traceback.format_exception(error))))
    except OSError as full:
        error = full
        checkpoint.sweep(JobDir(folder).checkpoints)  # what was half written leaves room for the outcome
    if isinstance(error, OSError) and error.errno in REMEDIES:
        error = refused(error, folder)
    try:
        job = spec.read(folder)
    except UnfitError:
        job = None
    code = error.exit_code if isinstance(error, HarnessError) else 1
    return Ending("failed", reason=redact(error_messages.reason(error, job)), exit_code=code)


def stopped(status: str, step: int) -> Ending:
    """Return the ending that a signal makes, or a better training; the same command goes on from there."""
    if status == "pruned":
        return Ending(status, step, f"pruned at step {step}: other trials were better at that point")
    return Ending(status, step, f"stopped by a signal at step {step}; rerun the same command to continue", PREEMPTED)


def _failed(files: JobDir) -> bool:
    try:
        outcome = files.outcome()
    except (OSError, UnfitError):
        return False
    return outcome is not None and outcome.status == "failed"
