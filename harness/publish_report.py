"""What makes MLflow a place to review: the paper's number and the gains beside ours, the view, M's way, models.

Told after the report, from the results frame and the root's files; telling twice changes nothing.
"""

import io
import time
from typing import Any

import numpy as np
import pandas as pd

from harness.core import record
from harness.core.evidence import thin
from harness.core.job import Evaluate, Train
from harness.core.plan import Experiment, setting
from harness.core.results import Context, null, summary
from harness.publish import Publisher
from harness.store import registry, view
from harness.store.tracking import FINGERPRINT

SNAPSHOTS = 16  # of M that are sent


def review(publisher: Publisher, experiment: Experiment, frame: pd.DataFrame, context: Context) -> None:
    """Tell the store all of it. Raises UnfitError where it does not answer."""
    if publisher.tracking is None:
        return
    numbers(publisher, frame, context)
    memories(publisher, experiment)
    models(publisher, experiment, frame, context)
    place, parent = publisher.parent(experiment)
    view.share(publisher.tracking, place, [parent])


def numbers(publisher: Publisher, frame: pd.DataFrame, context: Context) -> None:
    """paper/miou, delta/miou (over the baseline, same seed), delta/paper and the verdict of every cell."""
    assert publisher.tracking is not None
    own = frame[(frame["experiment"] == context.experiment) & (frame["status"] == "done")]
    verdicts = {row["cell"]: row["verdict"] for _, row in summary(frame, context).iterrows()}
    at = {(row["cell"], row["seed"]): row["miou"] for _, row in own.iterrows()}
    for _, row in own.iterrows():
        run = null(row["run_id"])
        if run is None:
            continue
        values: dict[str, float] = {}
        theirs, base = null(row["paper_miou"]), at.get((row["baseline"], row["seed"]))
        if theirs is not None:
            values["paper/miou"] = theirs
            if context.comparable:
                values["delta/paper"] = row["miou"] - theirs
        if base is not None:
            values["delta/miou"] = row["miou"] - base
        known = publisher.tracking.get(run).metrics
        now = round(1000 * time.time())
        fresh = {key: round(float(value), 2) for key, value in values.items()}
        publisher.tracking.log(run, [(k, v, 0, now) for k, v in fresh.items() if known.get(k) != v])
        if verdicts.get(row["cell"]):
            publisher.tracking.tag(run, {"harness.verdict": verdicts[row["cell"]]})


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


def models(publisher: Publisher, experiment: Experiment, frame: pd.DataFrame, context: Context) -> None:
    """Every plainly evaluated model of the plan as a version in the registry, members before their ensembles."""
    assert publisher.tracking is not None
    runs = {
        row["fingerprint"]: row["run_id"]
        for _, row in frame[frame["experiment"] == context.experiment].iterrows()
        if row["status"] == "done" and null(row["run_id"]) is not None
    }
    jobs = [cell.job for _, cell in experiment.cells if cell.job.fingerprint in runs and plain(cell.job)]
    for job in sorted(dict.fromkeys(jobs), key=lambda job: len(job.members)):
        folder = publisher.plan.directory(job)
        files = [folder / "job.yaml"]
        if len(job.members) == 1:
            trained = publisher.plan.directory(job.members[0])
            files = [trained / "job.yaml", trained / "weights.safetensors"]
        if not all(path.is_file() for path in files):  # somebody has made room
            continue
        card = card_of(publisher, job, context)
        registry.register(
            publisher.tracking, model_name(job), runs[job.fingerprint], model_key(publisher, job), files, card
        )


def plain(job: Evaluate) -> bool:
    """Whether an evaluation is a model's own, without stages, scales or flips: those change no weight."""
    return job.split == "val" and job.prior is None and job.scales == (1.0,) and not job.flip


def model_name(job: Evaluate) -> str:
    """What a model is called in the registry: 'vspw-decoder-a', 'vspw-decoder-a+decoder-b'."""
    who = "+".join(sorted(member.decoder for member in job.members)).replace("_", "-")
    return f"{job.config['data']['name']}-{who}"


def model_key(publisher: Publisher, job: Evaluate) -> dict[str, str]:
    """What identifies a model: its training as it was made, or for an ensemble its evaluation, which names them."""
    maker = job.members[0] if len(job.members) == 1 else job
    made = record.provenance(publisher.plan.directory(maker)).get("made")
    return {FINGERPRINT: maker.fingerprint, "harness.made": str(made)}


def card_of(publisher: Publisher, job: Evaluate, context: Context) -> str:
    """A model's card: what it is, its numbers, what they may be compared with, and how to use it."""
    assert publisher.tracking is not None
    found = record.read_evaluation(publisher.plan.directory(job))
    facts = setting(job.config)
    seeds = ", ".join(str(seed) for seed in sorted({member.config["seed"] for member in job.members}))
    lines = [
        f"# {model_name(job)}, seed {seeds}",
        f"{facts['encoder']}, trained on {facts['dataset']} videos for {facts['iterations']} iterations of batch "
        f"{facts['batch']} at {facts['crop']} pixels, preset {job.config.preset}.",
        f"| on val, {len(found.videos)} videos | percent |\n|---|---:|\n"
        + "\n".join(f"| {key} | {value:.2f} |" for key, value in found.final.items()),
    ]
    if context.reason:
        lines.append(f"Not the paper's setting ({context.reason}): do not set these numbers beside the paper's.")
    if len(job.members) > 1:
        known = []
        for one in (Evaluate((member,)) for member in job.members):
            number = registry.version(publisher.tracking, model_name(one), model_key(publisher, one))
            known.append(model_name(one) + (f" (version {number})" if number else ""))
        lines.append(f"An ensemble, the argmax of summed probabilities, of {', '.join(known)}.")
    folders = " ".join(str(publisher.plan.directory(member)) for member in job.members)
    lines += [
        f"Use it: `harness predict {folders} VIDEO`",
        "Weights carry the terms of the data and of the pretrained encoder that they were made from (docs/DATA.md).",
    ]
    return "\n\n".join(lines) + "\n"
