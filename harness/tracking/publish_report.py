"""Publish a report to MLflow: the paper's number and the gains beside ours, the view, the movement of M.

Told after the report, from its rows and the root's files; telling twice changes nothing.
"""

import io
import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UnfitError
from harness.plan.job import Train
from harness.results import power
from harness.results.evidence import thin
from harness.results.rows import Context, Row, aggregate
from harness.tracking import publish_models, tags
from harness.tracking.client import Tracking
from harness.tracking.plan_run import PlanRun

log = logging.getLogger(__name__)

SNAPSHOTS = 16  # of M that are sent


def review(plan_run: PlanRun, rows: Sequence[Row], context: Context) -> None:
    """Publish all of it. Raise UnfitError if the store does not answer."""
    numbers(plan_run.tracking, rows, context)
    memories(plan_run)
    try:
        publish_models.register(plan_run, rows, context)
    except UnfitError as error:  # a server may have no registry, or keep it to itself
        log.warning(f"no model was registered: {error}")


def numbers(tracking: Tracking, rows: Sequence[Row], context: Context) -> None:
    """Log paper/miou, delta/miou (vs. the baseline, same seed), delta/paper; as tags the verdict, the seeds needed."""
    done = [run for row in rows for run in row.done]
    needs = {need.cell: need.sentence for need in power.needs(aggregate(done), context)}
    miou = {(run.cell, run.seed): run.miou for run in done}
    by_cell = {row.cell: row for row in rows}
    for each in done:
        row, run = by_cell[each.cell], each.run_id
        if run is None or each.miou is None:
            continue
        values: dict[str, float] = {}
        theirs, base = row.paper_miou, miou.get((row.baseline or "", each.seed))
        if theirs is not None:
            values["paper/miou"] = theirs
            if context.comparable:
                values["delta/paper"] = each.miou - theirs
        if base is not None:
            values["delta/miou"] = each.miou - base
        stored = tracking.get(run)
        now = round(1000 * time.time())
        fresh = {key: round(float(value), 2) for key, value in values.items()}
        tracking.log(run, [(k, v, 0, now) for k, v in fresh.items() if stored.metrics.get(k) != v])
        answers = {tags.VERDICT: row.verdict, tags.POWER: needs.get(row.cell)}
        tags.migrate(tracking, stored)
        if any(answers.values()):
            tracking.tag(run, {key: text for key, text in answers.items() if text})


def memories(plan_run: PlanRun) -> None:
    """Log M of every finished training on its run: memory.npz with steps (T,), memory (T, K, C), the last one final."""
    plan, tracking = plan_run.plan, plan_run.tracking
    for job in plan_run.experiment.jobs:
        files = plan.jobdir(job)
        run = plan_run.known_run(job) if isinstance(job, Train) else None
        paths = thin(files.memory_files(), SNAPSHOTS)
        if run is None or not paths or plan.state(job) != "done":
            continue
        if tracking.get(run).tags.get("harness.memory") == paths[-1].stem:
            continue
        files.memory_file.write_bytes(packed({int(path.stem.removeprefix("step-")): np.load(path) for path in paths}))
        tracking.file(run, files.memory_file)
        tracking.tag(run, {"harness.memory": paths[-1].stem})


def packed(snapshots: Mapping[int, NDArray[np.float32]]) -> bytes:
    """Return snapshots of M by step, in one compressed file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, steps=np.array(list(snapshots)), memory=np.stack(list(snapshots.values())))
    return buffer.getvalue()
