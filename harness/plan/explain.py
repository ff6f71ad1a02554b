"""Why a job is not done: the nearest job that is, and the keys in which the two differ."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.plan import data_changes
from harness.plan.data_changes import Finished
from harness.plan.job import Job
from harness.plan.plan import Plan, state


class Difference(NamedTuple):
    """One key of an identity with two values; None where one side lacks it."""

    key: str
    ours: Any
    theirs: Any


def explain(plan: Plan, cell: str) -> str:
    """Return why a cell is not filled by the results in the root. Raise UsageError for an unknown cell."""
    cells = [row for experiment in plan.experiments for _, row in experiment.cells]
    jobs = [row.job for row in cells if row.name == cell]
    if not jobs:
        names = dict.fromkeys(row.name for row in cells)
        raise UsageError(f"no row '{cell}' in this plan; its rows: {', '.join(names)}")
    wanted = dict.fromkeys(needed for job in jobs for needed in [*job.inputs, job])
    before = data_changes.finished(plan)
    notes = data_changes.lines(plan)
    return "\n".join([*(line for job in wanted for line in about(plan, job, before)), *notes])


def about(plan: Plan, job: Job, before: Mapping[str, list[Finished]]) -> list[str]:
    """Explain a job: done, or its nearest finished relative with the keys that differ; data in words."""
    head = f"{job.fingerprint}  {job.name}: {plan.state(job)}"
    if plan.state(job) == "done":
        return [head]
    if why := data_changes.changed(plan, job, before):
        return [f"{head}; data changed: {why}"]
    waiting = [needed.name for needed in job.inputs if plan.state(needed) != "done"]
    if waiting:
        return [f"{head}; waiting for {', '.join(waiting)}"]
    near = nearest(plan, job)
    if near is None:
        return [head, "  no similar job has finished in this output directory"]
    other, differences = near
    lines = [f"  {key}: {ours!r} here, {theirs!r} there" for key, ours, theirs in differences]
    return [f"{head}; the nearest finished job is {other}, which differs in", *lines]


def nearest(plan: Plan, job: Job) -> tuple[str, list[Difference]] | None:
    """Return the finished job of the same kind with the fewest differing keys."""
    wanted = dict(flat({key: value for key, value in job.identity.items() if key != "recipes"}))
    candidates = []
    for files in plan.output.job_dirs():
        identity = files.description().get("identity", {})
        identity.pop("recipes", None)  # follow from the members
        if identity.get("kind") == wanted["kind"] and state(files) == "done":
            theirs = dict(flat(identity))
            keys = sorted(key for key in wanted.keys() | theirs.keys() if wanted.get(key) != theirs.get(key))
            differences = [Difference(key, wanted.get(key), theirs.get(key)) for key in keys]
            candidates.append((len(differences), files.name, differences))
    if not candidates:
        return None
    _, name, differences = min(candidates)
    return name, differences


def flat(tree: JsonObject, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of an identity by dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value
