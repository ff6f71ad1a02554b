"""Checks that take a training: the loss falls, a stop costs nothing, a video is parsed. The engine's own, made small.

Shapes: K classes, H × W pixels of a frame.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from safetensors.torch import load_file

from harness.common.atomic_files import write_json
from harness.config.compose import DataSpec, PluginSpec
from harness.config.sections import EvaluateConfig, TrainConfig
from harness.data.contract import Dataset
from harness.engine import build, checkpoint, sliding_window, train
from harness.engine.multistage import Stages
from harness.engine.runtime import Rank, Stop
from harness.jobdir.paths import JobDir, OutputDir
from harness.jobdir.replay import Replay
from harness.plan.spec import LaunchSpec, TrainSpec, to_json
from harness.tools.check._result import Broken, expect

CPU = torch.device("cpu")
VIDEOS = {"classes": 4, "train_videos": 4, "val_videos": 1, "frames": 3, "height": 32, "width": 48, "objects": 2}
DATA = DataSpec("synthetic", VIDEOS)
TINY_BEIT = PluginSpec("beit", {"model": "tiny"})
NARROW_UPERNET = PluginSpec("upernet", {"channels": 8, "aux_channels": 8})
STEPS, EDGE, FALL = 30, 5, 0.9  # of a training; steps averaged at each end; what the loss has to come below
SELDOM = 10 * STEPS  # steps: no checkpoint before the end
NUMBER = "a" * 16  # stands for a job's fingerprint


class Subject(Protocol):
    """A plug-in that can be trained."""

    @property
    def path(self) -> Path: ...
    def job(self, iterations: int) -> TrainSpec:
        """Return a small training of it."""
        ...


def job(
    iterations: int,
    folders: tuple[str, ...] = (),
    encoder: PluginSpec = TINY_BEIT,
    decoder: PluginSpec = NARROW_UPERNET,
    crop: int = 32,
) -> TrainSpec:
    """Return a training of four-class synthetic videos."""
    train = TrainConfig(
        epochs=1,
        batch=4,
        crop=crop,
        short_side=crop,
        lr=1e-2,
        layer_decay=1.0,
        warmup=3,
        workers=0,
        checkpoint_every=SELDOM,
        log_every=1,
    )
    return TrainSpec(
        fingerprint=NUMBER,
        seed=0,
        precision="fp32",
        data=DATA,
        encoder=encoder,
        decoder=decoder,
        train=train,
        evaluate=EvaluateConfig(window=crop),
        iterations=iterations,
        plugins=folders,
        identity={},
    )


def run(root: Path, job: TrainSpec) -> Path:
    """Train in this process; the job's directory, which a second call goes on in."""
    files = OutputDir(root).job(job.fingerprint)
    folder = files.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(files.job_file, to_json(job))
    train.train(folder, Rank(0, 1, CPU, torch.get_num_threads()), Stop())
    return folder


def losses(folder: Path) -> list[float]:
    """Return the loss of every iteration."""
    return list(Replay.of(JobDir(folder).events_file).losses.values())


def loss_falls(subject: Subject) -> str:
    """On a few synthetic videos the loss ends lower than it began."""
    with TemporaryDirectory() as root:
        curve = losses(run(Path(root), subject.job(STEPS)))
    first, last = (sum(part) / EDGE for part in (curve[:EDGE], curve[-EDGE:]))
    text = f"loss {first:.2f} → {last:.2f} in {len(curve)} steps"
    if last > FALL * first:
        raise Broken(f"{text}: expected it to fall by at least a tenth")
    return text


def resume(subject: Subject) -> str:
    """Four iterations, and two with two more after a stop, leave bit-equal weights."""
    job = subject.job(4)
    with TemporaryDirectory() as whole, TemporaryDirectory() as parts:
        expected = load_file(JobDir(run(Path(whole), job)).weights_file)
        checkpoints = OutputDir(Path(parts)).job(NUMBER).checkpoints
        run(Path(parts), replace(job, launch=LaunchSpec(pause=2)))
        expect(
            checkpoint.latest(checkpoints, print) == 2,
            "expected the interrupted training to leave a checkpoint at step 2",
        )
        torch.rand(5)  # a generator elsewhere must not matter
        resumed = load_file(JobDir(run(Path(parts), job)).weights_file)
    gaps = {name: float((value.float() - resumed[name].float()).abs().max()) for name, value in expected.items()}
    other = [name for name, gap in gaps.items() if gap != 0]
    if other:
        raise Broken(
            f"{len(other)} of {len(gaps)} tensors differ after 4 steps and after 2 + 2, by up to"
            f" {max(gaps.values()):.3g}, {other[0]} first: some state is missing from the checkpoint"
        )
    return f"{len(expected)} tensors after 4 steps and after 2 + 2, max difference 0"


def video(subject: Subject) -> str:
    """The evaluator takes the decoder through a video, in windows, in two stages."""
    job = subject.job(2)
    dataset = build.dataset(job.data, job.plugins)
    model = build.segmentor(job, len(dataset.classes), drawn=False)
    with TemporaryDirectory() as root:
        model.load_state_dict(load_file(JobDir(run(Path(root), job)).weights_file))
    geometry = sliding_window.geometry(job.evaluate)
    runs = [_parse(Stages(model, geometry, "fp32", CPU), dataset) for _ in range(2)]
    for index, (first, second) in enumerate(zip(*runs, strict=True)):
        expect(
            torch.equal(first, second),
            f"stage {index % 2} of frame {index // 2} differs when the video is parsed again",
        )
    totals = torch.stack([probabilities.sum(0) for probabilities in runs[0]])
    gap = float((totals - 1).abs().max())
    expect(gap < 1e-4, f"expected probabilities that sum to 1, off by {gap:.3g}")
    moved = max(float((stage - first).abs().max()) for first, stage in zip(runs[0][::2], runs[0][1::2], strict=True))
    frames = f"{len(runs[0]) // 2} frames of {tuple(runs[0][0].shape[1:])} in windows of {geometry.window}"
    return f"{frames}; stage 1 moves probabilities by up to {moved:.2g}"


def _parse(stages: Stages, dataset: Dataset) -> list[torch.Tensor]:
    """Probabilities (K, H, W) of stages 0 and 1 of each frame of the first val video."""
    name = dataset.videos("val")[0]
    probabilities = []
    for frame in dataset.frames("val", name):
        image = torch.from_numpy(dataset.read("val", name, frame).image).permute(2, 0, 1)[None]
        probabilities += [prediction.probabilities.clone() for prediction in stages.predict(image, 1)]
    return probabilities
