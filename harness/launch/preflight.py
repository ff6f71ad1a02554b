"""Checks, before any job runs, of what would end a plan's trainings or evaluations at their start."""

import json
import subprocess
import tempfile
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


def ask(module: str, kind: type[Answer], question: str = "") -> Callable[[], Answer]:
    """Ask a child, which imports torch, and return what waits for its answer.

    An answer is `broken`, with the reason, where the child has none.
    """
    with tempfile.TemporaryFile("w+") as asked:
        asked.write(question)
        asked.seek(0)
        process = subprocess.Popen(
            child.program(module),
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    @cache
    def answer() -> Answer:
        with process:
            try:
                stdout, stderr = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                return kind(broken=f"no answer within {PATIENCE} seconds")
            except BaseException:  # a signal
                process.kill()
                raise
        try:
            answer: Answer = TypeAdapter(kind).validate_json(child.last_line(stdout))
            return answer
        except ValueError:
            lines = stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            return kind(broken=one_line(lines[-1]))

    return answer


@cache
def ask_child(question: str) -> Callable[[], Problem]:
    """Ask a child about a plan's networks, once."""
    return ask("harness.engine.preflight", Problem, question)


def begin(
    plan: Plan, jobs: Sequence[Job], ranks: int, here: bool, ask: Callable[[str], Callable[[], Problem]]
) -> Callable[[], None]:
    """Ask whether the jobs' networks can be built, filled, held and run at their windows; return what waits for it.

    That raises UnfitError for the first which cannot. `here`: whether they run on this machine, so that its memory
    counts. `ask`: asks a process with torch, which this one does not import.
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
        return lambda: None
    classes = plan.config.content.classes
    question = {"jobs": list(specs.values()), "flows": flows, "classes": classes, "ranks": ranks, "here": here}
    answer = ask(json.dumps(question))

    def wait() -> None:
        problem = answer()
        if problem.broken:
            why = f"this plan's networks could not be tested: {problem.broken}"
            raise UnfitError(f"{why}; run `harness doctor` for details")
        if problem.problem:
            raise UnfitError(problem.problem)

    return wait


def asked_flows(job: Evaluate) -> list[tuple[str, str | None]]:
    """Return the optical flows that an evaluation's metrics ask for."""
    config = job.config
    metrics = [records.maker(each.name, each.config, config.folders)(1) for each in counted(config)]
    return [metric.flow for metric in metrics if metric.flow is not None]
