"""A report's evidence from the root's files: losses of the journals, snapshots of M, provenance of every job."""

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from harness.common.atomic_files import JsonObject
from harness.common.errors import HarnessError, UnfitError
from harness.config import input_digests
from harness.jobdir.paths import JobDir, OutputDir
from harness.jobdir.replay import LOSS, LOSS_MAIN, SCORE, Replay
from harness.plan.job import GIVEN, Evaluate, Job, Train
from harness.plan.plan import Experiment, Plan, setting
from harness.results import evidence, records
from harness.results.evidence import Curve, Evidence, Memory

EVIDENCE = "evidence.json"
LABELS = {"upernet": "UPerNet", "decoder_a": "Decoder A", "decoder_b": "Decoder B"}
KEPT = (
    "commit",
    "dirty",
    "device",
    "world",
    "launcher",
    "nproc",
    "versions",
    "seconds",
    "launch",
    "peak",
    "made",
    "cost",
)


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
        settings=differing(experiment),
        total_hours=None if (total := evidence.compute(everything(plan.root))) is None else total.device_hours,
    )


def differing(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Return cell -> key -> value for the keys whose values differ between the cells of the first seed."""
    settings = {cell.name: options(cell.job) for seed, cell in experiment.cells if seed == experiment.cells[0][0]}
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    differ = [key for key in keys if len({values.get(key) for values in settings.values()}) > 1]
    return {cell: {key: values[key] for key in differ if key in values} for cell, values in settings.items()}


def options(job: Evaluate) -> dict[str, str]:
    """Return what a cell is made by: its setting, its decoders' options, the stage and whose mask P is."""
    members = sorted(job.members, key=lambda member: member.decoder)
    own = {
        f"{member.decoder}.{key}": value
        for member in members
        for key, value in member.config["decoder"].get(member.decoder, {}).items()
    }
    prior = job.prior if job.prior in GIVEN else "stage before" if job.stage else "decoder's own"
    decoders = " + ".join(member.decoder for member in members)
    values = {"decoder": decoders, **setting(job.config), **own, "stage": job.stage, "prior": prior}
    return {key: str(value) for key, value in values.items()}


def everything(root: Path) -> list[JsonObject]:
    """Return the provenance of every job of an output directory; one whose files are damaged is left out."""
    provenances = []
    for files in OutputDir(root).job_dirs():
        with suppress(UnfitError):
            provenances.append(records.provenance(files.folder))
    return provenances


def classes(experiment: Experiment) -> tuple[str, ...]:
    """Return the names of the classes; none where the data set cannot say."""
    try:
        return tuple(input_digests.build_dataset(experiment.config).classes)
    except HarnessError:
        return ()


def curve(directory: Path, job: Train) -> Curve | None:
    """Return the losses as the attempts left them: what a later attempt did again replaces what was before."""
    curves = Replay.of(JobDir(directory).events_file).curves
    main, split = curves.get(LOSS_MAIN, {}), job.config.train.evaluate_split
    losses_by_step = evidence.thin(sorted(curves.get(LOSS, {}).items()))
    if not losses_by_step:
        return None
    steps, losses = zip(*losses_by_step, strict=True)
    scores = evidence.thin(sorted(curves.get(f"{split}{SCORE}", {}).items()))
    return Curve(
        LABELS.get(job.decoder, job.decoder),
        job.decoder,
        job.config["seed"],
        steps,
        tuple(round(loss, 5) for loss in losses),
        main=tuple(round(main[step], 5) for step in steps) if main.keys() >= set(steps) else (),
        scores=tuple((step, round(value, 3)) for step, value in scores),
        split=split if scores else "",
    )


def memory(directory: Path, job: Train) -> Memory | None:
    """Return M's similarities and its way; None for a training that left no snapshot."""
    paths = JobDir(directory).memory_files()
    try:
        snapshots = [(int(path.stem.removeprefix("step-")), np.load(path, allow_pickle=False)) for path in paths]
    except (OSError, ValueError):
        return None
    if not snapshots:
        return None
    end = snapshots[-1][1]
    return Memory(
        label=LABELS.get(job.decoder, job.decoder),
        decoder=job.decoder,
        seed=job.config["seed"],
        similarity=evidence.similarity(end),
        steps=tuple(step for step, _ in snapshots),
        drift=tuple(evidence.drift(rows, end) for _, rows in snapshots),
    )


def provenance(directory: Path, job: Job) -> JsonObject:
    """Return a job's provenance as a reviewer needs it."""
    record = records.provenance(directory)
    facts = {key: record[key] for key in KEPT if record.get(key) is not None}
    return {"name": job.name, "fingerprint": job.fingerprint, "version": job.identity["version"], **facts}


def read_evidence(path: Path) -> Evidence:
    """Return evidence from a file; none where it is absent or was written by another version."""
    try:
        return Evidence.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return Evidence()
