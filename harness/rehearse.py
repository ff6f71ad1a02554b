"""A rehearsal: every job for three steps and two videos, with the real launcher, batch, backbone and tracking.

Each training is stopped after its first step, resumed from its checkpoint, and walks through its schedule in three
steps, so both ways to a prior are seen. It lives in root/rehearsal, which no plan and no report reads, and in MLflow
experiments called rehearsal/…
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core import garbage, journal
from harness.core.cost import STATE, Cost, cost_lines
from harness.core.errors import HarnessError, UsageError
from harness.core.job import Evaluate, Job, Train
from harness.core.plan import Plan, launches, read_json
from harness.core.stopping import Stopped
from harness.execute import How, choose, fetch, fit, writable
from harness.publish import Publisher
from harness.store.tracking import Tracking
from harness.supervise import Show
from harness.sync import end_rehearsal
from harness.turns import Turns

STEPS, PAUSE, VIDEOS = 3, 1, 2
GIB = 2**30


@dataclass(frozen=True)
class Rehearsal(Plan):
    """The plan, cut short."""

    def spec(self, job: Job) -> dict[str, Any]:
        """The job's description with fewer steps or videos; its fingerprint stands, its directory is another root's."""
        told = super().spec(job)
        if isinstance(job, Train):
            often = {"checkpoint_every": STEPS, "log_every": 1}
            return {**told, "iterations": STEPS, "pause": PAUSE, "train": {**told["train"], **often}}
        return {**told, "videos": VIDEOS}

    def videos(self, job: Evaluate) -> list[str]:
        """The first two."""
        return super().videos(job)[:VIDEOS]


def rehearse(plan: Plan, how: How, show: Show, say: Callable[[str], None]) -> list[str]:
    """Run it and say what the plan will cost. Raises HarnessError for a job that fails, Stopped after a signal."""
    root = plan.root / "rehearsal"
    if garbage.at_work(root / "jobs"):
        raise UsageError(f"a rehearsal is at work in {root}; wait for it or end it")
    fit(plan.config)
    if any(isinstance(job, Train) for job in plan.jobs):
        fetch(plan.config, say)
    tracking = None if how.offline else Tracking(how.tracking_uri, f"{how.prefix}rehearsal/")
    if tracking is not None:
        tracking.connect()
        end_rehearsal(root, tracking, say)
    shutil.rmtree(root, ignore_errors=True)
    writable(root)
    short = Rehearsal(plan.experiments, root)
    publisher = Publisher(short, tracking, say)
    launcher, facts = choose(short, replace(how, rerun=None))
    turns = Turns(short, short.jobs, say)
    status = "FAILED"
    try:
        publisher.open(short.jobs)
        turns.run(launcher, publisher, show, facts)
        status = "FAILED" if turns.failures else "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        launcher.close()
        for experiment in short.experiments:
            publisher.close(experiment, status)
    if turns.failures:
        told = "; ".join(f"{job.name}: {reason}" for job, reason in turns.failures.items())
        raise HarnessError(f"the rehearsal failed: {told}")
    found = [one for launch in launches(plan.jobs) for one in measured(plan, short, launch)]
    return [line for line, _ in found] + cost_lines([cost for _, cost in found])


def measured(plan: Plan, short: Rehearsal, launch: Sequence[Job]) -> list[tuple[str, Cost]]:
    """What a launch's rehearsal says: peak memory and pace, and the cost of the whole."""
    job, folder = launch[0], short.directory(launch[0])
    outcome = read_json(folder / "outcome.json")
    events = journal.read(folder / "events.jsonl")[0]
    world = outcome["provenance"].get("world", 1)
    names = tuple(one.fingerprint for one in launch)
    if isinstance(job, Train):
        paces = [e["values"]["time/iterations_per_second"] for e in events if e["event"] == "metrics"]
        seconds = job.config.iterations() / paces[-1]
        weights = (folder / "weights.safetensors").stat().st_size
        line = f"{job.name}: peak {outcome['peak'] / GIB:.2f} GiB a rank, {1000 / paces[-1]:.0f} ms a step"
        kept, passing = garbage.size(folder), STATE * 3 * weights
        return [(line, Cost(names, job.name, seconds * world, seconds, kept, passing, "rehearsed"))]
    each = journal.spent(events) / len(short.videos(job))
    seconds = each * len(plan.videos(job))
    name = job.name if len(launch) == 1 else f"{len(launch)} evaluations"
    kept = sum(garbage.size(short.directory(one)) for one in launch) * len(plan.videos(job)) // len(short.videos(job))
    line = f"{name}: {1000 * each:.0f} ms a video, with the models' loading"
    return [(line, Cost(names, name, seconds * world, seconds, kept, 0, "rehearsed"))]
