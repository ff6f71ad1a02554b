"""The cost of a plan's missing jobs: GPU-hours, wall time and disk.

First from finished jobs of the same root that are like them: the same model on the same crops, batch and precision,
scaled by iterations (or videos). Where there is none, from counted FLOPs (engine/flops.py, in a child process) at a
stated rate. "GPU" stands for whatever a rank ran on.
"""

import json
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
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
class UnitCost:
    """Costs of a finished job."""

    seconds: float  # per iteration or video
    world: int  # ranks
    bytes: int  # kept
    weights: int  # bytes of them


def costs(
    plan: Plan,
    counted: Counted | None = None,
    rate: float = RATE,
    ranks: int | None = None,
) -> list[Cost]:
    """Return the cost of every launch that is missing; `counted` are `count`'s answers.

    What is counted is shared by so many ranks; None: as many as a run takes here.
    """
    missing = [job for job in plan.jobs if plan.state(job) != "done"]
    specs = {job.fingerprint: to_json(job.spec()) for job in plan.jobs}
    keys = {job.fingerprint: like(specs[job.fingerprint], plan.root, specs) for job in missing}
    measured = finished(plan.root, set(keys.values()))
    similar = {name: measured[key] for name, key in keys.items() if key in measured}
    if counted and ranks is None:
        ranks = machine.ranks(plan.config.micro_batch, machine.gpus())
    return [_launch(plan, launch, similar, counted or {}, rate, ranks or 1) for launch in launches(missing)]


def _launch(
    plan: Plan, launch: Sequence[Job], measured: Mapping[str, UnitCost], counted: Counted, rate: float, ranks: int
) -> Cost:
    job, names = launch[0], tuple(job.fingerprint for job in launch)
    name = job.name if len(launch) == 1 else f"{len(launch)} evaluations"
    similar = [measured[name] for name in names if name in measured]
    work = units(plan, launch)
    if work is not None and len(similar) == len(launch):
        # evaluations of one launch share frames and passes: the slowest stands for all
        seconds = max(cost.seconds for cost in similar) * work
        world = max(cost.world for cost in similar)
        weights = max(cost.weights for cost in similar)
        passing = STATE * 3 * weights if isinstance(job, Train) else 0
        return Cost(
            names, name, seconds * world, seconds, sum(cost.bytes for cost in similar), passing, "finished jobs"
        )
    if work is not None and all(name in counted for name in names):
        counts = [counted[name] for name in names]
        device = max(count["flops"] for count in counts) * work / (rate * 1e12)
        weights = int(4 * counts[0]["parameters"]) if isinstance(job, Train) else 0
        wall = device / (ranks if isinstance(job, Train) else max(1, min(ranks, work)))  # a rank takes whole videos
        source = f"counted, at {rate:g} TFLOP/s on {ranks} rank(s)"
        return Cost(names, name, device, wall, weights, STATE * 3 * weights, source)
    blind = work is None or counted  # what could be counted is; an evaluation's windows need the size of a frame
    why = "its data is not available" if blind else "no similar job has finished; --count estimates it"
    return Cost(names, name, None, None, None, None, why)


def units(plan: Plan, launch: Sequence[Job]) -> float | None:
    """Return the iterations that a training still needs, or videos of an evaluation; None without the data."""
    job = launch[0]
    if isinstance(job, Train):
        return job.config.iterations() - max(plan.jobdir(job).checkpoint_steps(), default=0)
    return job.config.content.videos.get(job.split)


def finished(root: Path, wanted: Collection[str]) -> dict[str, UnitCost]:
    """Return what finished jobs took, by what they are like; of several that are alike, the last by fingerprint."""
    measured: dict[str, UnitCost] = {}
    for files in reversed(list(OutputDir(root).job_dirs())):
        if len(measured) == len(wanted):
            break
        outcome, job = files.outcome(), files.description()
        if outcome is None or outcome.status != "finished" or not outcome.step or "identity" not in job:
            continue
        key = like(job, root, {})
        if key in wanted and key not in measured:
            measured[key] = UnitCost(
                seconds=Replay.of(files.events_file).seconds / outcome.step,
                world=(outcome.provenance or {}).get("world", 1),
                bytes=gc.size(files.folder),
                weights=files.weights_file.stat().st_size if files.weights_file.exists() else 0,
            )
    return measured


def like(spec: JsonObject, root: Path, planned: Mapping[str, JsonObject]) -> str:
    """Return a key, equal for jobs whose units cost the same, of a job.yaml's content without seeds and schedules.

    `planned`: the content of jobs by fingerprint; other members are read from the output directory.
    """
    identity = without_content(spec["identity"])
    if spec["kind"] == "train":
        train = {key: value for key, value in identity["train"].items() if key not in SCHEDULE}
        return digest([{key: value for key, value in identity.items() if key not in ("seed", "train")}, train])
    output = OutputDir(root)
    members = [planned.get(name) or output.job(name).description() for name in spec["members"]]
    of_members = sorted(like(member, root, planned) for member in members if member)
    own = {key: value for key, value in identity.items() if key not in ("recipes", "members", "prior")}
    return digest([own, of_members])


def count(plan: Plan) -> dict[str, dict[str, float]]:
    """Return FLOPs a unit and parameters of every missing job, counted in a child process. Raise UnfitError."""
    wanted = []
    for job in plan.jobs:
        if plan.state(job) != "done":
            members = [to_json(member.spec()) for member in job.members] if not isinstance(job, Train) else []
            wanted.append({**to_json(job.spec()), "classes": job.config.content.classes, "of": members})
    counted = subprocess.run(
        child.program("harness.engine.flops"),
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    if counted.returncode:
        lines = counted.stderr.strip().splitlines()
        raise UnfitError(f"FLOPs could not be counted: {lines[-1] if lines else 'the child process died'}")
    flops: dict[str, dict[str, float]] = json.loads(child.last_line(counted.stdout))
    return flops


def cost_json(launch_costs: Iterable[Cost]) -> list[JsonObject]:
    """Return the value of "cost" in `plan --json`."""
    return [vars(cost) for cost in launch_costs]


def cost_lines(launch_costs: Sequence[Cost]) -> list[str]:
    """Return the lines of `plan` on its cost."""
    if not launch_costs:
        return []
    lines = ["", "Cost of missing jobs"]
    width = max(len(cost.name) for cost in launch_costs)
    for cost in launch_costs:
        lines.append(f"  {cost.name:<{width}}  {in_words(cost)}")
    if len(launch_costs) > 1 and all(cost.device_seconds is not None for cost in launch_costs):
        hours = sum(cost.device_seconds or 0 for cost in launch_costs)
        kept = sum(cost.kept or 0 for cost in launch_costs)
        passing = max(cost.passing or 0 for cost in launch_costs)
        wall = (
            None
            if any(cost.seconds is None for cost in launch_costs)
            else sum(cost.seconds or 0 for cost in launch_costs)
        )
        lines.append(
            f"  {'together':<{width}}  {in_words(Cost((), '', hours, wall, kept, passing, 'one after another'))}"
        )
    return lines


def in_words(cost: Cost) -> str:
    """Return a cost in words."""
    if cost.device_seconds is None:
        return f"unknown: {cost.source}"
    words = [f"{cost.device_seconds / 3600:.2f} GPU-hours"]
    if cost.seconds is not None:
        words.append(f"{cost.seconds / 3600:.2f} h of wall time")
    if cost.kept is not None:
        more = f" (up to {cost.passing / 1e9:.2f} GB more while training)" if cost.passing else ""
        words.append(f"{cost.kept / 1e9:.2f} GB{more}")
    return ", ".join(words) + f"; {cost.source}"
