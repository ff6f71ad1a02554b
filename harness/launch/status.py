"""Jobs that run and jobs that died, by the output directory and Slurm's queue: neither torch nor MLflow is asked."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.common.atomic_files import JsonObject, read_json
from harness.common.errors import UnfitError
from harness.jobdir import lease
from harness.jobdir.paths import JobDir, OutputDir, SlurmJob, Submission
from harness.jobdir.replay import tail
from harness.launch import slurm_queue
from harness.launch.launchers._log import last_line
from harness.launch.launchers._sbatch import State
from harness.launch.slurm_queue import Queue
from harness.plan.outcome import ENDED

RECENT = 24 * 3600.0  # seconds for which a job that is over is shown
TAIL = 65536  # bytes of a journal that hold its last events
LIVE = ("running", "queued")
DAMAGED = "damaged"


@dataclass(frozen=True)
class Status:
    """One job as it stands."""

    fingerprint: str
    name: str
    state: str  # running | queued | died | damaged, or a word of plan/outcome.py
    reason: str | None = None
    step: int | None = None
    steps: int | None = None
    unit: str = ""
    rate: float | None = None  # steps a second
    eta: float | None = None  # seconds
    loss: float | None = None
    launcher: str | None = None
    host: str | None = None
    holder: str | None = None  # whose run has it
    slurm: str | None = None  # number of the Slurm job
    queue: str | None = None  # Slurm's word on it
    quiet: float | None = None  # seconds since it last wrote


def look(root: Path, everything: bool = False, now: float | None = None) -> list[Status]:
    """Return the jobs that run or wait, then those of the last day (`everything`: all), the youngest first."""
    now = time.time() if now is None else now
    entries = {files: listing(files.folder) for files in OutputDir(root).job_dirs()}
    activity = activity_files(root)
    ages = {
        files: now - max((times[name] for name in activity if name in times), default=0.0)
        for files, times in entries.items()
        if files.job_file.name in times or files.slurm_file.name in times
    }
    submissions = [sent for files in ages if files.slurm_file.name in entries[files] and (sent := submission(files))]
    queue = slurm_queue.ask({sent.slurm_job for sent in submissions})

    def may_be_shown(files: JobDir) -> bool:  # an output directory holds thousands that ended long ago
        if everything or ages[files] < RECENT or files.slurm_file.name in entries[files]:
            return True
        return files.attempts.name in entries[files] and lease.current_holder(files.folder) is not None

    statuses = [(examine(files, queue, now), old) for files, old in ages.items() if may_be_shown(files)]
    shown = [(status, old) for status, old in statuses if everything or status.state in LIVE or old < RECENT]
    return [status for status, _ in sorted(shown, key=lambda pair: (pair[0].state not in LIVE, pair[1]))]


def listing(folder: Path) -> dict[str, float]:
    """Return a folder's entries with the time at which each was last written, without what goes meanwhile."""
    times: dict[str, float] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                times[entry.name] = entry.stat().st_mtime
    return times


def activity_files(root: Path) -> tuple[str, ...]:
    """Return the names of a job's files that are written while it is worked on."""
    files = JobDir(root)
    return files.events_file.name, files.outcome_file.name, files.how_file.name, files.slurm_file.name


def rehearsing(root: Path) -> str | None:
    """Return the Slurm job that rehearses in a root, or may, if Slurm cannot be asked and it has left no result."""
    output = OutputDir(root)
    slurm_job = SlurmJob.of(read(output.rehearsal_file))
    if slurm_job is None or output.rehearsal_result(slurm_job.id).exists():
        return None
    queue = slurm_queue.ask([slurm_job])
    return slurm_job.id if slurm_job in queue.silent or queue.live(slurm_job) else None


def examine(files: JobDir, queue: Queue, now: float) -> Status:
    """Return a job's status, 'damaged' if one of its small files is."""
    try:
        return standing(files, queue, now)
    except UnfitError as error:
        return Status(files.name, called(read(files.job_file), files) or files.name, DAMAGED, str(error))


def standing(files: JobDir, queue: Queue, now: float) -> Status:
    """Return a job's status. A job that neither an outcome, a holder nor Slurm speaks for has died.

    Raise UnfitError for a damaged file.
    """
    spec, how, outcome, submitted = files.description(), files.how(), files.outcome(), files.submission()
    queued = None if submitted is None else queue.states.get(submitted.slurm_job)
    holder = lease.current_holder(files.folder)
    replay = tail(files.events_file, TAIL)
    state, reason = (None, None) if outcome is None else (outcome.status, outcome.reason)
    if holder is not None:
        state, reason = "running", None
    elif queued is not None and queued.live and state != "finished":
        state, reason = "queued" if queued.state != "RUNNING" else "running", None
    elif submitted is not None and submitted.slurm_job in queue.silent and state is None:
        state, reason = "queued", f"Slurm cannot be queried here about job {submitted.slurm_job.whose}"
    elif state == "lost" or state not in ENDED:
        state, reason = "died", reason or died(files.folder, submitted, queued)
    return Status(
        fingerprint=files.name,
        name=called(spec, files) or (submitted and submitted.name) or files.name,
        state=str(state),
        reason=reason,
        step=replay.step if replay.begin else None,
        steps=replay.steps if replay.begin else None,
        unit=replay.unit,
        rate=replay.rate if state == "running" else None,
        eta=replay.remaining if state == "running" else None,
        loss=replay.loss,
        launcher=how.get("launcher"),
        host=how.get("host"),
        holder=None if holder is None else holder.who,
        slurm=None if submitted is None else submitted.id,
        queue=None if queued is None else " ".join(part for part in (queued.state, queued.reason, queued.left) if part),
        quiet=None if replay.time is None else max(0.0, now - replay.time),
    )


def read(path: Path) -> JsonObject:
    """Return a small JSON file; {} also where it is damaged."""
    try:
        return read_json(path)
    except UnfitError:
        return {}


def submission(files: JobDir) -> Submission | None:
    """Return the Slurm job that a job was submitted as; None also where that file is damaged."""
    try:
        return files.submission()
    except UnfitError:
        return None


def died(directory: Path, submitted: Submission | None, queued: State | None) -> str:
    """Return the reason of a job that left no outcome."""
    holder = lease.latest_holder(directory)
    who = f"{holder.who} is gone" if holder is not None else "no process is running it"
    slurm = f"; Slurm job {submitted.id}: {queued.state if queued else 'no longer known'}" if submitted else ""
    if submitted is not None and submitted.log is not None and Path(submitted.log).is_file():
        slurm += f", whose log ends: {last_line(Path(submitted.log))}"
    return f"no outcome, and {who}{slurm}; rerun the same command to continue"


def called(spec: JsonObject, files: JobDir) -> str | None:
    """Return a job's name for people, from its job.yaml; None before it was first started."""
    if spec.get("kind") == "train":
        return f"train {spec['decoder']['name']} seed {spec['seed']}"
    if spec.get("kind") == "evaluate":
        members = [read(JobDir(files.folder.parent / member).job_file) for member in spec["members"]]
        names = sorted(member["decoder"]["name"] for member in members if member)
        return f"evaluate {' + '.join(names)}" + (f" stage {spec['stage']}" if spec.get("stage") else "")
    return None


def lines(statuses: list[Status]) -> Iterator[str]:
    """Yield a line a job, for people."""
    width = max((len(job.name) for job in statuses), default=0)
    for job in statuses:
        parts = [f"{job.step}/{job.steps} {job.unit}"] if job.steps else []
        parts += [f"loss {job.loss:.3f}"] if job.loss is not None and job.state == "running" else []
        parts += [f"{job.rate:.2f} per second"] if job.rate else []
        parts += [f"{span(job.eta)} left"] if job.eta is not None else []
        parts += [f"quiet for {span(job.quiet)}"] if job.state == "running" and (job.quiet or 0) > 60 else []
        parts += [job.launcher] if job.launcher else []
        parts += [f"Slurm {job.slurm}: {job.queue}"] if job.slurm and job.queue else []
        parts += [job.reason] if job.reason else []
        yield f"{job.fingerprint}  {job.state:<9}  {job.name:<{width}}  {', '.join(parts)}".rstrip()


def span(seconds: float | None) -> str:
    """Return a length of time in its two largest units."""
    whole = round(seconds or 0)
    for size, unit, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return f"{whole} s"


def as_json(statuses: list[Status]) -> JsonObject:
    """Return the document that `status --json` prints."""
    return {"schema": 1, "jobs": [asdict(status) for status in statuses]}
