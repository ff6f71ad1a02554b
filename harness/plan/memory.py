"""The memory that trainings of a plan need on a card, before anything runs: traced in a child (engine/step_memory)."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from harness.common import child, machine
from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import Progress
from harness.plan.cost import like
from harness.plan.job import Train
from harness.plan.plan import Plan
from harness.plan.spec import to_json

GIB = 2**30
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Need:
    """What a step of some like trainings holds on a rank."""

    jobs: tuple[str, ...]  # fingerprints
    name: str
    images: int  # of a rank's micro-batch
    peak: int | None  # bytes; None: not known
    change: tuple[str, int] | None = None  # keys that make it fit, and its peak with them
    reason: str | None = None  # why it is not known

    def fits(self, limit: float) -> bool | None:
        """Return whether it is at most `limit` bytes; None where it is not known."""
        return None if self.peak is None else self.peak <= limit


def parse(text: str) -> int:
    """Return the bytes of '24GB' (10⁹) or '24GiB' (2³⁰). Raise UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", text.strip())
    if match is None or not (size := round(float(match[1]) * UNITS[match[2]])):
        raise UsageError(f"--memory {text}: must be a size such as 24GB or 40GiB")
    return size


def needs(plan: Plan, limit: int, ranks: int | None, progress: Progress) -> list[Need]:
    """Return what every distinct training that is not done needs; `ranks` None: as many as a run takes here.

    Raise UnfitError where the child dies.
    """
    world = ranks or machine.ranks(plan.config.micro_batch, machine.gpus())
    groups: dict[str, list[Train]] = {}
    for job in plan.jobs:
        if isinstance(job, Train) and plan.state(job) != "done":
            groups.setdefault(like(to_json(job.spec()), plan.root, {}), []).append(job)
    trainings = list(groups.values())
    answers = trace([jobs[0] for jobs in trainings], limit, world, progress)
    return [_need(jobs, answer, world) for jobs, answer in zip(trainings, answers, strict=True)]


def trace(jobs: Sequence[Train], limit: int, world: int, progress: Progress) -> list[JsonObject]:
    """Ask the child. Raise UnfitError where it dies."""
    content = [[to_json(job.spec()), job.config.content.classes] for job in jobs]
    answers: list[JsonObject] = []
    task = progress.task("memory of a step", "trainings")
    with subprocess.Popen(
        child.program("harness.engine.step_memory"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        assert tracer.stderr is not None
        tracer.stdin.write(json.dumps({"jobs": content, "world": world, "limit": limit}))
        tracer.stdin.close()
        task.update(0, len(jobs))
        for line in tracer.stdout:
            if line.startswith("{"):
                answers.append(json.loads(line))
                task.update(len(answers), len(jobs))
        errors = tracer.stderr.read().strip().splitlines()
    if tracer.returncode or len(answers) != len(jobs):
        raise UnfitError(f"memory could not be traced: {errors[-1] if errors else 'the child process died'}")
    return answers


def _need(jobs: Sequence[Train], answer: JsonObject, world: int) -> Need:
    job = jobs[0]
    seeds = f" (and {len(jobs) - 1} like it)" if len(jobs) > 1 else ""
    images = max(1, job.config.micro_batch // world)
    change = answer.get("change")
    names = tuple(job.fingerprint for job in jobs)
    return Need(
        names, f"{job.name}{seeds}", images, answer.get("peak"), change and (change[0], change[1]), answer.get("reason")
    )


def lines(needed: Sequence[Need], limit: int, text: str) -> list[str]:
    """Return the lines of `plan --memory`."""
    if not needed:
        return ["", "Memory of a step: no training is missing"]
    output = [
        "",
        f"Memory of a step on a rank, of {text} (traced on tensors without storage; a GPU's context comes on top)",
    ]
    width = max(len(need.name) for need in needed)
    for need in needed:
        if need.peak is None:
            output.append(f"  {need.name:<{width}}  unknown: {need.reason}")
            continue
        verdict = "OK" if need.fits(limit) else "FAIL"
        output.append(f"  {need.name:<{width}}  {need.peak / GIB:.3g} GiB with {need.images} image(s)  {verdict}")
        if need.change is not None:
            words, peak = need.change
            output.append(f"    {words}: {peak / GIB:.3g} GiB")
        elif not need.fits(limit):
            output.append(
                "    no activation checkpointing or smaller micro-batch suffices: more ranks, or a smaller crop"
            )
    if any(need.change and "micro_batch" in need.change[0] for need in needed):
        output.append(
            "  A smaller train.micro_batch changes numbers (batch norm's statistics are over it); more ranks do not."
        )
    return output


def needs_json(needed: Sequence[Need], limit: int) -> list[JsonObject]:
    """Return the value of "memory" in `plan --json`."""
    return [{**vars(need), "fits": need.fits(limit)} for need in needed]
