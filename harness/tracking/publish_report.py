"""What makes MLflow a place to review: the paper's number and the gains beside ours, the view, the way of M.

Told after the report, from its rows and the root's files; telling twice changes nothing.
"""

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.common.errors import UnfitError
from harness.plan.job import Train
from harness.plan.plan import Experiment
from harness.results import power
from harness.results.evidence import thin
from harness.results.rows import Context, Row, aggregate
from harness.tracking import publish_models, view
from harness.tracking.publisher import Publisher

SNAPSHOTS = 16  # of M that are sent


def review(publisher: Publisher, experiment: Experiment, rows: Sequence[Row], context: Context) -> None:
    """Tell the store all of it. Raises UnfitError where it does not answer."""
    if publisher.tracking is None:
        return
    numbers(publisher, rows, context)
    memories(publisher, experiment)
    try:
        publish_models.register(publisher, experiment, rows, context)
    except UnfitError as error:  # a server may have no registry, or keep it to itself
        publisher.say(f"no model was registered: {error}")
    place, parent = publisher.parent(experiment)
    view.share(publisher.tracking, place, [parent])


def numbers(publisher: Publisher, rows: Sequence[Row], context: Context) -> None:
    """paper/miou, delta/miou (over the baseline, same seed), delta/paper; as tags the verdict, the seeds needed."""
    assert publisher.tracking is not None
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
        known = publisher.tracking.get(run).metrics
        now = round(1000 * time.time())
        fresh = {key: round(float(value), 2) for key, value in values.items()}
        publisher.tracking.log(run, [(k, v, 0, now) for k, v in fresh.items() if known.get(k) != v])
        tags = {"harness.verdict": row.verdict, "harness.power": needs.get(row.cell)}
        if any(tags.values()):
            publisher.tracking.tag(run, {key: text for key, text in tags.items() if text})


def memories(publisher: Publisher, experiment: Experiment) -> None:
    """M of every finished training on its run: memory.npz with steps (T,) and memory (T, K, C), the last one final."""
    assert publisher.tracking is not None
    for job in experiment.jobs:
        run = publisher._known_run(job) if isinstance(job, Train) else None
        paths = thin(sorted((publisher.plan.directory(job) / "memory").glob("step-*.npy")), SNAPSHOTS)
        if run is None or not paths or publisher.plan.state(job) != "done":
            continue
        if publisher.tracking.get(run).tags.get("harness.memory") == paths[-1].stem:
            continue
        target = publisher.plan.directory(job) / "memory.npz"
        target.write_bytes(packed({int(path.stem.removeprefix("step-")): np.load(path) for path in paths}))
        publisher.tracking.file(run, target)
        publisher.tracking.tag(run, {"harness.memory": paths[-1].stem})


def packed(snapshots: dict[int, Any]) -> bytes:
    """Snapshots of M by step, in one compressed file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, steps=np.array(list(snapshots)), memory=np.stack(list(snapshots.values())))
    return buffer.getvalue()
