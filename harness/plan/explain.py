"""Why a job is not done: the nearest job that is, and the keys in which the two differ."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.common.errors import UsageError
from harness.plan.job import Job
from harness.plan.plan import Plan, state


class Difference(NamedTuple):
    """One key of an identity with two values; None where one side lacks it."""

    key: str
    wanted: Any
    found: Any


def explain(plan: Plan, cell: str) -> str:
    """What stands between a cell and the results in the root. Raises UsageError for an unknown cell."""
    jobs = [found.job for experiment in plan.experiments for _, found in experiment.cells if found.name == cell]
    if not jobs:
        known = dict.fromkeys(found.name for experiment in plan.experiments for _, found in experiment.cells)
        raise UsageError(f"no cell '{cell}' in this plan; its cells: {', '.join(known)}")
    wanted = dict.fromkeys(needed for job in jobs for needed in [*job.inputs, job])
    return "\n".join(line for job in wanted for line in about(plan, job))


def about(plan: Plan, job: Job) -> list[str]:
    """One job: done, or its nearest finished relative with the keys that differ."""
    head = f"{job.fingerprint}  {job.name}: {plan.state(job)}"
    if plan.state(job) == "done":
        return [head]
    waiting = [needed.name for needed in job.inputs if plan.state(needed) != "done"]
    if waiting:
        return [f"{head}; it waits for {', '.join(waiting)}"]
    near = nearest(plan, job)
    if near is None:
        return [head, "  nothing like it is finished under this root"]
    other, differences = near
    lines = [f"  {key}: {wanted!r} here, {found!r} there" for key, wanted, found in differences]
    return [f"{head}; the nearest finished job is {other}, which differs in", *lines]


def nearest(plan: Plan, job: Job) -> tuple[str, list[Difference]] | None:
    """The finished job of the same kind with the fewest differing keys."""
    wanted = dict(flat({key: value for key, value in job.identity.items() if key != "recipes"}))
    found = []
    for files in plan.output.job_dirs():
        identity = files.description().get("identity", {})
        identity.pop("recipes", None)  # follow from the members
        if identity.get("kind") == wanted["kind"] and state(files) == "done":
            there = dict(flat(identity))
            keys = sorted(key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key))
            differences = [Difference(key, wanted.get(key), there.get(key)) for key in keys]
            found.append((len(differences), files.name, differences))
    if not found:
        return None
    _, name, differences = min(found)
    return name, differences


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of an identity by dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value
