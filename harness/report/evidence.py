"""A report's evidence from the root's files: losses of the journals, snapshots of M, provenance of every job."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.common.atomic_files import JsonObject
from harness.common.errors import HarnessError
from harness.config import input_digests
from harness.jobdir.paths import JobDir
from harness.jobdir.replay import Replay
from harness.plan.job import Job, Train
from harness.plan.plan import Experiment, Plan
from harness.results import evidence, records
from harness.results.evidence import Curve, Evidence, Memory

LABELS = {"upernet": "UPerNet", "decoder_a": "Decoder A", "decoder_b": "Decoder B"}
KEPT = ("commit", "dirty", "device", "world", "launcher", "nproc", "versions", "seconds", "made")


def gather(plan: Plan, experiment: Experiment, command: Sequence[str] = ()) -> Evidence:
    """Return what the root has; a job that is not done leaves nothing, and what is damaged is left out."""
    done = [job for job in experiment.jobs if plan.state(job) == "done"]
    trainings = [job for job in done if isinstance(job, Train)]
    curves = [curve(plan.directory(job), job) for job in trainings]
    memories = [memory(plan.directory(job), job) for job in trainings]
    return Evidence(
        classes=classes(experiment),
        curves=tuple(filter(None, curves)),
        memories=tuple(filter(None, memories)),
        jobs=tuple(provenance(plan.directory(job), job) for job in done),
        data=experiment.config.content.data,
        command=shlex.join(command),
    )


def classes(experiment: Experiment) -> tuple[str, ...]:
    """Names of the classes; none where the data set cannot say."""
    try:
        return tuple(input_digests.build_dataset(experiment.config).classes)
    except HarnessError:
        return ()


def curve(directory: Path, job: Train) -> Curve | None:
    """The loss as the attempts left it: what a later attempt did again replaces what was before."""
    kept = evidence.thin(sorted(Replay.of(JobDir(directory).events_file).losses.items()))
    if not kept:
        return None
    steps, losses = zip(*kept, strict=True)
    return Curve(
        LABELS.get(job.decoder, job.decoder),
        job.decoder,
        job.config["seed"],
        steps,
        tuple(round(loss, 5) for loss in losses),
    )


def memory(directory: Path, job: Train) -> Memory | None:
    """M's similarities and its way; None for a training that left no snapshot."""
    paths = JobDir(directory).memory_files()
    try:
        kept = [(int(path.stem.removeprefix("step-")), np.load(path, allow_pickle=False)) for path in paths]
    except (OSError, ValueError):
        return None
    if not kept:
        return None
    end = kept[-1][1]
    return Memory(
        label=LABELS.get(job.decoder, job.decoder),
        decoder=job.decoder,
        seed=job.config["seed"],
        similarity=evidence.similarity(end),
        steps=tuple(step for step, _ in kept),
        drift=tuple(evidence.drift(rows, end) for _, rows in kept),
    )


def provenance(directory: Path, job: Job) -> JsonObject:
    """Return a job's provenance as a reviewer needs it."""
    record = records.provenance(directory)
    kept = {key: record[key] for key in KEPT if record.get(key) is not None}
    return {"name": job.name, "fingerprint": job.fingerprint, "version": job.identity["version"], **kept}
