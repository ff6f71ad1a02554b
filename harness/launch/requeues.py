"""A Slurm job that is put back into the queue again and again: whether it gets on, and the warning that it needs."""

from collections.abc import Sequence
from pathlib import Path

from harness.common.atomic_files import JsonObject, read_json, write_json
from harness.common.errors import UnfitError, UsageError
from harness.config import plugins
from harness.jobdir.events import Begin, Checkpoint, Event, Metrics, Progress, read_events
from harness.jobdir.paths import JobDir, OutputDir
from harness.launch.launchers import _sbatch
from harness.plan.job import Job
from harness.plan.plan import Plan

STARTS = 5  # times that a Slurm job is begun without a checkpoint or a video more
WARNING = 90  # seconds before the time limit that the signal comes, at least
SPARE = 1.5  # times what start-up and a checkpoint took


def same_checkout(submitted: str | None) -> None:
    """Raise UnfitError where this harness is not that which has submitted the job."""
    here = str(plugins.PROJECT)
    if submitted not in (None, here):
        raise UnfitError(
            f"this job was submitted by the harness in {submitted}, but Python imports the one in {here} here: "
            "move it back, or rerun the same command from its new location"
        )


def idle(plan: Plan, fingerprints: Sequence[str], number: str) -> str | None:
    """Count a start of this Slurm job; why it should be the last, None where it gets on."""
    files = [plan.jobdir(job) for job in plan.jobs if job.fingerprint in fingerprints]
    reached = sum(max(job.checkpoint_steps(), default=0) + len(job.video_files()) for job in files)
    reached += sum(plan.state(job) == "done" for job in plan.jobs if job.fingerprint in fingerprints)
    note = plan.output.slurm_log(number).with_name("starts.json")
    before = read_json(note)
    starts = before.get("starts", 0) + 1 if before.get("reached") == reached else 1
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"starts": starts, "reached": reached})
    if starts <= STARTS:
        return None
    return (
        f"Slurm job {number} was started {STARTS} times without a new checkpoint or video: start-up and a checkpoint "
        "take longer than it is let run; give a longer --slurm time=… or a partition that is preempted less often"
    )


def with_warning(plan: Plan, launch: Sequence[Job], options: JsonObject) -> JsonObject:
    """Return the options with the signal before the time limit as early as start-up and a checkpoint ask for.

    Raise UsageError where the time limit is shorter than that.
    """
    given = int(options.get("signal_delay_s", WARNING))
    roots = (plan.output, OutputDir(plan.output.rehearsal))
    needed = max(SPARE * took(root.job(job.fingerprint)) for job in launch for root in roots)
    limit = None if "time" not in options else _sbatch.minutes(options["time"])
    if limit is not None and needed >= 60 * limit:
        raise UsageError(
            f"slurm option time={options['time']}: start-up and a checkpoint of {launch[0].name} took "
            f"{needed / SPARE:.0f} s before, so there would be no progress; give at least twice {needed:.0f} s"
        )
    return {**options, "signal_delay_s": max(given, round(needed))} if needed > given else dict(options)


def took(files: JobDir) -> float:
    """Return the seconds of a job's last start, up to its first step, and of a checkpoint; 0 where nothing is known."""
    if not files.how_file.exists():
        return 0.0
    began = files.how_file.stat().st_mtime
    first = saving = 0.0
    last = began
    for event in last_attempt(files.events_file, began):
        if isinstance(event, Progress | Metrics):
            first = first or event.time - began
        if isinstance(event, Checkpoint) and first:
            saving = max(saving, event.time - last if event.seconds is None else event.seconds)
        last = event.time
    return (first or last - began) + saving


def last_attempt(path: Path, since: float) -> list[Event]:
    """Return the events of the last attempt, where it began after `since` (unix seconds)."""
    events = read_events(path)[0]
    begins = [at for at, event in enumerate(events) if isinstance(event, Begin) and event.time >= since]
    return events[begins[-1] :] if begins else []
