"""Checks, before any job runs, of what would end a plan's trainings or evaluations at their start."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

from pydantic import TypeAdapter

from harness.common import child
from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError
from harness.common.redaction import one_line
from harness.config.metrics import counted
from harness.launch.launchers._environment import child_environment
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Plan
from harness.plan.spec import to_json
from harness.results import records

PATIENCE = 600  # seconds; BEiT-Large's weights from a slow disk are minutes


class _Answer(Protocol):
    def __init__(self, *, broken: str) -> None: ...


Answer = TypeVar("Answer", bound=_Answer)


@dataclass(frozen=True)
class Problem:
    """A defect of a plan's networks, empty for none; `broken` says why there is no answer."""

    problem: str = ""
    broken: str = ""


def ask(module: str, kind: type[Answer], question: str = "") -> Answer:
    """Return a child's answer; one that is `broken`, with the reason, where it has none. Only a child imports torch."""
    try:
        done = subprocess.run(
            child.program(module),
            input=question,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=child_environment(),
            check=False,
        )
        answer: Answer = TypeAdapter(kind).validate_json(child.last_line(done.stdout))
        return answer
    except subprocess.TimeoutExpired:
        return kind(broken=f"no answer within {PATIENCE} seconds")
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return kind(broken=one_line(lines[-1]))


@cache
def answered(question: str) -> Problem:
    """Return a child's answer on a plan's networks."""
    return ask("harness.engine.preflight", Problem, question)


def check(plan: Plan, jobs: Sequence[Job], ranks: int, here: bool, respond: Callable[[str], Problem]) -> None:
    """Raise UnfitError for the first of the jobs whose network cannot be built, filled, held or run at its windows.

    `here`: whether they run on this machine, so that its memory counts. `respond`: answers with torch, which this
    process does not import.
    """
    specs: dict[str, JsonObject] = {}
    for job in jobs:
        for training in (job,) if isinstance(job, Train) else job.members:
            spec = training.spec()
            begins = training in jobs and plan.state(training) == "missing"
            if begins or spec.evaluate.window != spec.train.crop:  # else it has been trained at its window
                content = to_json(spec)
                parts = [content[key] for key in ("encoder", "decoder", "plugins", "train", "evaluate")]
                specs.setdefault(json.dumps(parts, sort_keys=True), content)
    flows = sorted({flow for job in jobs if not isinstance(job, Train) for flow in asked_flows(job)}, key=str)
    if not specs and not flows:
        return
    classes = plan.config.content.classes
    question = {"jobs": list(specs.values()), "flows": flows, "classes": classes, "ranks": ranks, "here": here}
    answer = respond(json.dumps(question))
    if answer.broken:
        raise UnfitError(f"this plan's networks could not be tested: {answer.broken}; run `harness doctor` for details")
    if answer.problem:
        raise UnfitError(answer.problem)


def asked_flows(job: Evaluate) -> list[tuple[str, str | None]]:
    """Return the optical flows that an evaluation's metrics ask for."""
    config = job.config
    metrics = [records.maker(each.name, each.config, config.folders)(1) for each in counted(config)]
    return [metric.flow for metric in metrics if metric.flow is not None]
