"""What the missing jobs of a plan will cost: GPU-hours, wall time and disk.

First from finished jobs of the same root that are like them: the same model on the same crops, batch and precision,
scaled by iterations (or videos). Where there is none, from counted FLOPs (engine/flops.py, in a child process) at a
stated rate. "GPU" stands for whatever a rank ran on.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from harness.common import child, machine
from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError
from harness.jobdir.paths import OutputDir
from harness.jobdir.replay import Replay
from harness.plan import gc
from harness.plan.job import Job, Train, digest, without_content
from harness.plan.plan import Plan, launches
from harness.plan.spec import to_json

RATE = 100.0  # TFLOP/s of a GPU; what --count divides by
SCHEDULE = ("epochs", "warmup", "lr", "weight_decay", "layer_decay")  # keys that change no step's cost
Counted: TypeAlias = Mapping[str, Mapping[str, float]]  # fingerprint -> flops, parameters
STATE = 3  # a checkpoint's size in weights: the model and AdamW's two moments


@dataclass(frozen=True)
class Cost:
    """Of one launch. None: not known."""

    jobs: tuple[str, ...]  # fingerprints
    name: str
    device_seconds: float | None  # over all ranks
    seconds: float | None  # of wall time
    kept: int | None  # bytes that stay
    passing: int | None  # bytes of checkpoints while it runs: the last two, and the one being written
    source: str  # 'finished jobs', 'counted', or why it is not known


@dataclass(frozen=True)
class Known:
    """What a finished job has cost."""

    seconds: float  # a unit: an iteration or a video
    world: int  # ranks
    bytes: int  # kept
    weights: int  # bytes of them


def costs(
    plan: Plan,
    counted: Counted | None = None,
    rate: float = RATE,
    ranks: int | None = None,
) -> list[Cost]:
    """The cost of every launch that is missing; `counted` are `count`'s answers.

    What is counted is shared by so many ranks; None: as many as a run takes here.
    """
    known = finished(plan.root)
    missing = [job for job in plan.jobs if plan.state(job) != "done"]
    if counted and ranks is None:
        ranks = machine.ranks(plan.config.micro_batch, machine.gpus())
    return [_launch(plan, launch, known, counted or {}, rate, ranks or 1) for launch in launches(missing)]


def _launch(
    plan: Plan, launch: Sequence[Job], known: Mapping[str, Known], counted: Counted, rate: float, ranks: int
) -> Cost:
    job, names = launch[0], tuple(one.fingerprint for one in launch)
    name = job.name if len(launch) == 1 else f"{len(launch)} evaluations"
    found = [known[key] for one in launch if (key := like(to_json(one.spec()), plan.root, plan)) in known]
    work = units(plan, launch)
    if work is not None and len(found) == len(launch):
        # evaluations of one launch share frames and passes: the slowest stands for all
        seconds = max(one.seconds for one in found) * work
        world = max(one.world for one in found)
        weights = max(one.weights for one in found)
        passing = STATE * 3 * weights if isinstance(job, Train) else 0
        return Cost(names, name, seconds * world, seconds, sum(one.bytes for one in found), passing, "finished jobs")
    if work is not None and all(one.fingerprint in counted for one in launch):
        told = [counted[one.fingerprint] for one in launch]
        device = max(one["flops"] for one in told) * work / (rate * 1e12)
        weights = int(4 * told[0]["parameters"]) if isinstance(job, Train) else 0
        wall = device / (ranks if isinstance(job, Train) else max(1, min(ranks, work)))  # a rank takes whole videos
        source = f"counted, at {rate:g} TFLOP/s on {ranks} rank(s)"
        return Cost(names, name, device, wall, weights, STATE * 3 * weights, source)
    blind = work is None or counted  # what could be counted is; an evaluation's windows need the size of a frame
    why = "its data are not at hand" if blind else "nothing like it is finished; --count counts it"
    return Cost(names, name, None, None, None, None, why)


def units(plan: Plan, launch: Sequence[Job]) -> float | None:
    """Iterations that a training still needs, or videos of an evaluation; None where the data are not at hand."""
    job = launch[0]
    if isinstance(job, Train):
        return job.config.iterations() - max(plan.jobdir(job).checkpoint_steps(), default=0)
    return job.config.content.videos.get(job.split)


def finished(root: Path) -> dict[str, Known]:
    """Finished jobs by what they are like."""
    known: dict[str, Known] = {}
    for files in OutputDir(root).job_dirs():
        outcome, job = files.outcome(), files.description()
        if outcome is None or outcome.status != "finished" or not outcome.step or "identity" not in job:
            continue
        known[like(job, root, None)] = Known(
            seconds=Replay.of(files.events_file).seconds / outcome.step,
            world=(outcome.provenance or {}).get("world", 1),
            bytes=gc.size(files.folder),
            weights=files.weights_file.stat().st_size if files.weights_file.exists() else 0,
        )
    return known


def like(spec: JsonObject, root: Path, plan: Plan | None) -> str:
    """Equal for jobs whose units cost the same: of a job.yaml's content, seeds and schedules left out."""
    identity = without_content(spec["identity"])
    if spec["kind"] == "train":
        train = {key: value for key, value in identity["train"].items() if key not in SCHEDULE}
        return digest([{key: value for key, value in identity.items() if key not in ("seed", "train")}, train])
    output = OutputDir(root)
    planned = {job.fingerprint: to_json(job.spec()) for job in plan.jobs} if plan is not None else {}
    members = [planned.get(name) or output.job(name).description() for name in spec["members"]]
    of_members = sorted(like(member, root, plan) for member in members if member)
    kept = {key: value for key, value in identity.items() if key not in ("recipes", "members", "prior")}
    return digest([kept, of_members])


def count(plan: Plan) -> dict[str, dict[str, float]]:
    """FLOPs a unit and parameters of every missing job, counted in a child process. Raises UnfitError."""
    wanted = []
    for job in plan.jobs:
        if plan.state(job) != "done":
            members = [to_json(member.spec()) for member in job.members] if not isinstance(job, Train) else []
            wanted.append({**to_json(job.spec()), "classes": job.config.content.classes, "of": members})
    counted = subprocess.run(
        child.python("-m", "harness.engine.flops"),
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    if counted.returncode:
        said = counted.stderr.strip().splitlines()
        raise UnfitError(f"FLOPs could not be counted: {said[-1] if said else 'the child process died'}")
    found: dict[str, dict[str, float]] = json.loads(counted.stdout)
    return found


def cost_json(found: Iterable[Cost]) -> list[JsonObject]:
    """What `plan --json` says under "cost"."""
    return [vars(one) for one in found]


def cost_lines(found: Sequence[Cost]) -> list[str]:
    """What `plan` says."""
    if not found:
        return []
    lines = ["", "Cost of what is missing"]
    width = max(len(one.name) for one in found)
    for one in found:
        lines.append(f"  {one.name:<{width}}  {told(one)}")
    if len(found) > 1 and all(one.device_seconds is not None for one in found):
        hours = sum(one.device_seconds or 0 for one in found)
        kept = sum(one.kept or 0 for one in found)
        passing = max(one.passing or 0 for one in found)
        wall = None if any(one.seconds is None for one in found) else sum(one.seconds or 0 for one in found)
        lines.append(f"  {'together':<{width}}  {told(Cost((), '', hours, wall, kept, passing, 'one after another'))}")
    return lines


def told(one: Cost) -> str:
    """One cost in words."""
    if one.device_seconds is None:
        return f"unknown: {one.source}"
    words = [f"{one.device_seconds / 3600:.2f} GPU-hours"]
    if one.seconds is not None:
        words.append(f"{one.seconds / 3600:.2f} h of wall time")
    if one.kept is not None:
        more = f" (up to {one.passing / 1e9:.2f} GB more while training)" if one.passing else ""
        words.append(f"{one.kept / 1e9:.2f} GB{more}")
    return ", ".join(words) + f"; {one.source}"
