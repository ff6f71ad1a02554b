"""What runs and what died, from the root's files and Slurm's queue alone: neither torch nor MLflow is asked."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.common.atomic_files import read_json
from harness.common.errors import UnfitError
from harness.jobdir import lease
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import State
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
    """Jobs that are at work or waiting, then those of the last day (`everything`: all), the youngest first."""
    now = time.time() if now is None else now
    directories = [path.parent for path in (root / "jobs").glob("*/job.yaml")]
    directories += [
        path.parent for path in (root / "jobs").glob("*/slurm.json") if not (path.parent / "job.yaml").exists()
    ]
    numbers = {number for path in directories if (number := read(path / "slurm.json").get("id")) is not None}
    recent = {path: age(path, now) for path in directories}
    queue = _sbatch.queue({str(number) for number in numbers})
    found = [(examine(path, queue, now), recent[path]) for path in directories]
    shown = [(one, old) for one, old in found if everything or one.state in LIVE or old < RECENT]
    return [one for one, _ in sorted(shown, key=lambda pair: (pair[0].state not in LIVE, pair[1]))]


def rehearsal(root: Path) -> Path:
    """Where a root keeps which Slurm job rehearses in it, until its result was seen."""
    return root / "slurm" / "rehearsal.json"


def left_by(root: Path, number: str) -> Path:
    """Where a Slurm job leaves what its rehearsal came to."""
    return root / "slurm" / number / "rehearsal.json"


def rehearsing(root: Path) -> str | None:
    """The Slurm job that is to rehearse in a root, or may be, where Slurm cannot be asked and it has left no word."""
    number = read(rehearsal(root)).get("id")
    if number is None or left_by(root, number).exists():
        return None
    queue = _sbatch.queue([number])
    return number if queue is None or (number in queue and queue[number].live) else None


def examine(directory: Path, queue: Mapping[str, State] | None, now: float) -> Status:
    """One job, 'damaged' where one of its small files is."""
    try:
        return standing(directory, queue, now)
    except UnfitError as error:
        return Status(
            directory.name, called(read(directory / "job.yaml"), directory) or directory.name, DAMAGED, str(error)
        )


def standing(directory: Path, queue: Mapping[str, State] | None, now: float) -> Status:
    """One job. What neither an outcome, a holder nor Slurm speaks for has died; None: Slurm cannot be asked.

    Raises UnfitError for a damaged file.
    """
    spec, how, outcome = (read_json(directory / name) for name in ("job.yaml", "how.json", "outcome.json"))
    submitted = read_json(directory / "slurm.json")
    number = submitted.get("id")
    known = None if queue is None else queue.get(str(number))
    holder = lease.held(directory)
    facts = events(directory)
    state, reason = outcome.get("status"), outcome.get("reason")
    if holder is not None:
        state, reason = "running", None
    elif known is not None and known.live and state != "finished":
        state, reason = "queued" if known.state != "RUNNING" else "running", None
    elif queue is None and number is not None and state is None:
        state, reason = "queued", f"Slurm cannot be asked here about job {number}"
    elif state == "lost" or state not in ENDED:
        state, reason = "died", reason or died(directory, number, known)
    last = facts.get("time")
    return Status(
        fingerprint=directory.name,
        name=called(spec, directory) or submitted.get("name") or directory.name,
        state=str(state),
        reason=reason,
        step=facts.get("step"),
        steps=facts.get("steps"),
        unit=facts.get("unit", ""),
        rate=facts.get("rate") if state == "running" else None,
        eta=remaining(facts) if state == "running" else None,
        loss=facts.get("loss"),
        launcher=how.get("launcher"),
        host=how.get("host"),
        holder=None if holder is None else holder.who,
        slurm=None if number is None else str(number),
        queue=None if known is None else " ".join(part for part in known if part),
        quiet=None if last is None else max(0.0, now - last),
    )


def read(path: Path) -> dict[str, Any]:
    """A small JSON file; {} also where it is damaged."""
    try:
        return read_json(path)
    except UnfitError:
        return {}


def died(directory: Path, number: str | None, known: State | None) -> str:
    """What can be said of a job that left no outcome."""
    seen = lease.latest_holder(directory)
    who = f"{seen.who} is gone" if seen is not None else "nobody has it"
    slurm = f"; Slurm job {number}: {known.state if known else 'no longer known'}" if number is not None else ""
    return f"no outcome, and {who}{slurm}; the same command goes on"


def events(directory: Path) -> dict[str, Any]:
    """Where a job stands, from the end of its journal: step, steps, unit, rate, loss, time."""
    path = directory / "events.jsonl"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        begin = next((event for line in file if (event := parsed(line)).get("event") == "begin"), {})
        file.seek(max(0, size - TAIL))
        tail = [event for line in file.read().splitlines() if (event := parsed(line))]
    for event in [begin, *tail]:
        found |= {key: event[key] for key in ("steps", "unit") if key in event}
        if event.get("event") in ("begin", "progress", "metrics", "checkpoint") and "step" in event:
            found["step"] = event["step"]
        values = event.get("values") or {}
        if "train/loss" in values:
            found["loss"] = values["train/loss"]
        if "time" in event:
            found["time"] = event["time"]
    found["rate"] = rate(tail)
    return found


def rate(tail: list[dict[str, Any]]) -> float | None:
    """Steps a second since the last begin, over what the tail holds."""
    start = max((at for at, event in enumerate(tail) if event.get("event") == "begin"), default=0)
    points = [(event["time"], event["step"]) for event in tail[start:] if "step" in event and "time" in event]
    if len(points) < 2 or points[-1][0] <= points[0][0] or points[-1][1] <= points[0][1]:
        return None
    (began, first), (ended, last) = points[0], points[-1]
    return float((last - first) / (ended - began))


def remaining(facts: Mapping[str, Any]) -> float | None:
    """Seconds to go at the present rate."""
    known = facts.get("rate"), facts.get("step"), facts.get("steps")
    if not known[0] or known[1] is None or known[2] is None:
        return None
    return float((known[2] - known[1]) / known[0])


def parsed(line: bytes) -> dict[str, Any]:
    """A journal's line; {} where it is torn."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def called(spec: Mapping[str, Any], directory: Path) -> str | None:
    """A job's name for people, from its job.yaml; None before it was first started."""
    if spec.get("kind") == "train":
        return f"train {spec['decoder']['name']} seed {spec['seed']}"
    if spec.get("kind") == "evaluate":
        members = [read(directory.parent / member / "job.yaml") for member in spec["members"]]
        names = sorted(member["decoder"]["name"] for member in members if member)
        return f"evaluate {' + '.join(names)}" + (f" stage {spec['stage']}" if spec.get("stage") else "")
    return None


def lines(found: list[Status]) -> Iterator[str]:
    """A line a job, for people."""
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        parts = [f"{one.step}/{one.steps} {one.unit}"] if one.steps else []
        parts += [f"loss {one.loss:.3f}"] if one.loss is not None and one.state == "running" else []
        parts += [f"{one.rate:.2f} a second"] if one.rate else []
        parts += [f"{span(one.eta)} to go"] if one.eta is not None else []
        parts += [f"quiet for {span(one.quiet)}"] if one.state == "running" and (one.quiet or 0) > 60 else []
        parts += [one.launcher] if one.launcher else []
        parts += [f"Slurm {one.slurm}: {one.queue}"] if one.slurm and one.queue else []
        parts += [one.reason] if one.reason else []
        yield f"{one.fingerprint}  {one.state:<9}  {one.name:<{width}}  {', '.join(parts)}".rstrip()


def span(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    whole = round(seconds or 0)
    for size, unit, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return f"{whole} s"


def as_json(found: list[Status]) -> dict[str, Any]:
    """What `status --json` prints."""
    return {"schema": 1, "jobs": [asdict(one) for one in found]}


def age(directory: Path, now: float) -> float:
    """Seconds since anything of a job was written."""
    files = [directory / name for name in ("events.jsonl", "outcome.json", "how.json", "slurm.json")]
    return now - max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
