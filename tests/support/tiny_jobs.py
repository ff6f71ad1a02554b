"""Job directories small enough for a test: four-block BEiT at 32 pixels, narrow heads, synthetic videos."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from harness.config.compose import DataSpec, PluginSpec
from harness.config.sections import EvaluateConfig, TrainConfig
from harness.engine import build, train
from harness.engine.runtime import Rank, Stop
from harness.jobdir.events import Log, read_events
from harness.plan.spec import EvaluateSpec, JobSpec, TrainSpec, read, read_as, to_json

ALONE = Rank(0, 1, torch.device("cpu"), 1)
DATA = {
    "classes": 4,
    "train_videos": 6,
    "val_videos": 3,
    "test_videos": 1,
    "frames": 3,
    "height": 32,
    "width": 48,
    "objects": 2,
}
HEADS: dict[str, dict[str, Any]] = {
    "upernet": {"channels": 8, "aux_channels": 8},
    "decoder_a": {"channels": 8, "aux_channels": 8, "memory_channels": 8, "gt_warmup": 0.3},
    "decoder_b": {"channels": 8, "aux_channels": 8, "memory_channels": 8, "tma_key": 4, "tma_value": 8},
}


TRAIN = TrainConfig(
    epochs=6,
    batch=4,
    micro_batch=4,
    crop=32,
    short_side=32,
    lr=1e-3,
    layer_decay=0.9,
    warmup=2,
    workers=0,
    checkpoint_every=2,
    log_every=1,
)


def write_job(root: Path, job: JobSpec) -> Path:
    """The job's directory under `root`, with its job.yaml."""
    folder = root / "jobs" / job.fingerprint
    folder.mkdir(parents=True)
    rewrite(folder, job)
    return folder


def rewrite(folder: Path, job: JobSpec) -> None:
    """Exchange a directory's job.yaml."""
    (folder / "job.yaml").write_text(json.dumps(to_json(job)))


def set_attempt(folder: Path, attempt: int) -> None:
    """Say in job.yaml which attempt the job's ranks belong to."""
    job = read(folder)
    rewrite(folder, replace(job, launch=replace(job.launch, attempt=attempt)))


def training(root: Path, name: str = "a" * 16, decoder: str = "decoder_a", config: Any = None, **changes: Any) -> Path:
    """A training job; `changes` go to its top level or, by name, to its train section."""
    options = {key: changes.pop(key) for key in asdict(TRAIN) if key in changes}
    job = TrainSpec(
        fingerprint=name,
        seed=3,
        precision="fp32",
        data=DataSpec("synthetic", DATA),
        encoder=PluginSpec("beit", {"model": "tiny"}),
        decoder=PluginSpec(decoder, config or HEADS[decoder]),
        train=replace(TRAIN, **options),
        evaluate=EvaluateConfig(window=32),
        iterations=6,
        plugins=(),
        identity={},
    )
    return write_job(root, replace(job, **changes))


def untrained(root: Path, name: str = "a" * 16, decoder: str = "decoder_a", **changes: Any) -> Path:
    """A training with the weights it starts from and every row of its memory set (rows that are not cost less)."""
    folder = training(root, name, decoder, **changes)
    job = read_as(folder, TrainSpec)
    state = build.segmentor(job, len(build.dataset(job.data).classes)).state_dict()
    for key, value in state.items():
        if key.endswith("memory.initialised"):
            value.fill_(True)
        elif key.endswith("memory.rows"):
            value.normal_()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "weights.safetensors")
    return folder


def evaluation(root: Path, name: str, members: list[str], stage: int = 0, **changes: Any) -> Path:
    """An evaluation job of trainings in the same root."""
    job = EvaluateSpec(
        fingerprint=name,
        members=tuple(members),
        prior=None,
        stage=stage,
        scales=(1.0,),
        flip=False,
        split="val",
        precision="fp32",
        data=DataSpec("synthetic", DATA),
        evaluate=EvaluateConfig(window=32),
        plugins=(),
        identity={},
    )
    return write_job(root, replace(job, **changes))


def train_now(folder: Path) -> Path:
    """Run a training job in this process."""
    assert train.train(folder, ALONE, Stop()).status == "finished"
    return folder


def counts(folder: Path) -> dict[str, np.ndarray]:
    """An evaluation's confusion matrices by video."""
    return {path.stem: np.load(path)["confusion"] for path in sorted((folder / "videos").glob("*.npz"))}


def weights(folder):
    return load_file(folder / "weights.safetensors")


def stop_at(monkeypatch, iteration, status="preempted"):
    """A Stop that is set while the given iteration runs."""
    stop = Stop()
    step = train.Trainer.step

    def wrapped(self, now, *rest):
        if now == iteration:
            stop.status = status
        return step(self, now, *rest)

    monkeypatch.setattr(train.Trainer, "step", wrapped)
    return stop


def messages(folder):
    return [event.message for event in read_events(folder / "events.jsonl")[0] if isinstance(event, Log)]
