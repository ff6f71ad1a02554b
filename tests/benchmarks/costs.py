"""Rows of `make bench` for what stands around the model: counts, data, checkpoints, planning, start-up.

Shapes: B images, N positions, T earlier frames, Ck and Cv channels of keys and values, K classes, H × W pixels.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import one_model
import tiny_jobs
import torch
from benchmarks.measure import Measure, Row, shown, sizes
from numpy.typing import NDArray
from torch import Tensor
from vspw_files import make_vspw

from harness.config import compose
from harness.data.datasets import vspw
from harness.data.stream import TrainStream
from harness.engine.metrics import confusion
from harness.engine.reporter import Reporter
from harness.engine.saving import Checkpoints
from harness.engine.train import Trainer
from harness.launch.launchers._environment import child_environment
from harness.plan import plan
from harness.plan.spec import TrainSpec, read_as
from harness.results import metrics
from models.layers import temporal_attention

FRAME = (480, 853)  # VSPW 480p


def tma_read(measure: Measure, N: int = 4096, T: int = 2, Ck: int = 64, Cv: int = 512) -> Row:
    """TMA's read by torch's attention with scale 1, against the softmax of all N × T·N scores written out."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, N, Ck, generator=generator)
    keys = torch.randn(1, T * N, Ck, generator=generator)
    values = torch.randn(1, T * N, Cv, generator=generator)

    def ours() -> Tensor:
        return temporal_attention.read(query, keys, values, scaled=False)

    def written_out() -> Tensor:
        return torch.softmax(query @ keys.mT, dim=-1) @ values

    torch.testing.assert_close(ours(), written_out(), rtol=1e-3, atol=1e-4)
    fast, slow = measure.seconds(ours, written_out)
    setting = sizes(N=N, T=T, Ck=Ck, Cv=Cv)
    return Row("TMA's read", setting, shown(fast), f"softmax(Q Kᵀ) V written out: {shown(slow)}", slow / fast)


def confusion_counts(measure: Measure, size: tuple[int, int] = FRAME, K: int = 124) -> Row:
    """A frame's confusion matrix by one bincount, against a sum for every pair of classes that is there."""
    truth, mask = _masks(2, size, K)

    def ours() -> Tensor:
        return confusion(truth, mask, K)

    def loop() -> Tensor:
        matrix = torch.zeros(K, K, dtype=torch.int64)
        for row in truth.unique().tolist():
            for column in mask.unique().tolist():
                if row < K:
                    matrix[row, column] = ((truth == row) & (mask == column)).sum()
        return matrix

    assert torch.equal(ours(), loop())
    fast, slow = measure.seconds(ours, loop)
    setting = f"a frame of {size[0]} × {size[1]}, {sizes(K=K)}"
    return Row("confusion matrix", setting, shown(fast), f"a sum for each pair of classes: {shown(slow)}", slow / fast)


def video_consistency(measure: Measure, frames: int = 75, size: tuple[int, int] = FRAME, K: int = 124) -> Row:
    """mVC8 and mVC16 of a video by run lengths, against comparing all frames of every window."""
    drawn = _masks(2 * frames, size, K).numpy().astype(np.uint8)
    truth, masks = drawn[:frames], drawn[frames:]

    def ours() -> list[float]:
        counted = metrics.Consistency(K)
        for pair in zip(truth, masks, strict=True):
            counted.add(*pair)
        found = metrics.consistency([counted.totals])
        return [found.get(f"mvc{window}", np.nan) for window in metrics.WINDOWS]

    def windows() -> list[float]:
        return [_consistency(truth, masks, window) for window in metrics.WINDOWS]

    np.testing.assert_allclose(ours(), windows(), rtol=1e-9)
    fast, slow = measure.seconds(ours, windows, most=3, warm=False)
    setting = f"{frames} frames of {size[0]} × {size[1]}"
    reference = f"all frames of every window (no strict variant): {shown(slow)}"
    return Row("video consistency", setting, shown(fast), reference, slow / fast)


def _consistency(truth: NDArray[np.uint8], masks: NDArray[np.uint8], window: int) -> float:
    """The official script's mVC: a mean over windows, the last of a video left out."""
    scores = []
    for start in range(len(truth) - window):
        stable = (truth[start : start + window] == truth[start]).all(0)
        kept = stable & (masks[start : start + window] == masks[start]).all(0)
        if stable.any():
            scores.append(kept.sum() / stable.sum())
    return float(np.mean(scores)) if scores else float("nan")


def _masks(number: int, size: tuple[int, int], classes: int) -> Tensor:
    """Masks of blocks that mostly stay from one to the next.  # (number, H, W) int64"""
    generator = torch.Generator().manual_seed(0)
    height, width = -(-size[0] // 32), -(-size[1] // 32)
    blocks = torch.randint(min(classes, 20), (1, height, width), generator=generator)
    moved = torch.randint(min(classes, 20), (number, height, width), generator=generator)
    stays = torch.rand(number, height, width, generator=generator) < 0.97
    whole = torch.where(stays, blocks, moved).repeat_interleave(32, 1).repeat_interleave(32, 2)
    return whole[:, : size[0], : size[1]].contiguous()


def training_sample(
    measure: Measure,
    size: tuple[int, int] = FRAME,
    crop: int = 512,
    short_side: int = 512,
    offsets: Sequence[int] = (0,),
) -> Row:
    """A training sample, read and augmented, over reading alone: what one worker does a second follows from it.

    `offsets` are its frames, as TrainStream has them.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = make_vspw(Path(folder) / "data", {"train": 4, "val": 1, "test": 1}, frames=4, size=size, classes=124)
        dataset = vspw.Dataset(vspw.Config(root=str(root)))
        stream = TrainStream(dataset, offsets=offsets, crop=crop, short_side=short_side, seed=0)
        places = range(8)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a worker
        try:
            whole, reading = measure.seconds(
                lambda: [stream[place] for place in places],
                lambda: [dataset.read("train", stream.video(place), "00000000") for place in places for _ in offsets],
            )
        finally:
            torch.set_num_threads(threads)
    of = "a frame" if len(offsets) == 1 else f"{len(offsets)} frames"
    return Row(
        "training sample",
        f"{of} of {size[0]} × {size[1]}, crop {crop}, one worker",
        f"{shown(whole / len(places))}: {len(places) / whole:.1f} samples a second",
        f"reading it alone: {shown(reading / len(places))}",
        whole / reading,
        "times reading",
        high=1.3,
    )


def training_clip(measure: Measure, past: Sequence[int] = (-2, -1), **how: Any) -> Row:
    """The same for a decoder that reads earlier frames: as many as Decoder B does."""
    return training_sample(measure, offsets=(*past, 0), **how)


def checkpoint_save(measure: Measure, decoder: str = "decoder_a", **widths: int) -> Row:
    """What a checkpoint stops the training for, and how long a thread then writes it, over torch.save alone."""
    with tempfile.TemporaryDirectory() as folder:
        place = tiny_jobs.training(Path(folder), decoder=decoder, config=widths or {"channels": 512})
        trainer = Trainer(read_as(place, TrainSpec), 124, tiny_jobs.ALONE)
        trainer.start(None)
        for parameter in trainer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()  # makes the moments
        bare = Path(folder) / "bare.pt"
        with Reporter(place, trainer.rank, 1) as reporter, Checkpoints(place, trainer, reporter) as checkpoints:
            state, steps = trainer.state(), itertools.count(1)
            stopped, beside, alone = measure.seconds(
                lambda: checkpoints.save(next(steps)), checkpoints.wait, lambda: torch.save(state, bare)
            )
        held = bare.stat().st_size
    setting = f"{held / 1e6:.0f} MB, then written beside training in {shown(beside)}"
    reference = f"torch.save alone: {shown(alone)}"
    return Row("checkpoint", setting, shown(stopped), reference, stopped / alone, "times torch.save", high=1)


def planning(measure: Measure, seeds: int = 143) -> Row:
    """A plan of many jobs with their fingerprints, per job over a plan of one seed's seven."""
    made = compose.compose("demo", [])

    def fingerprints(number: int) -> int:
        return len({job.fingerprint for job in plan.make(["ablation_ensemble"], made, Path("nowhere"), number).jobs})

    few, many = fingerprints(1), fingerprints(seeds)
    one, all_ = measure.seconds(lambda: fingerprints(1), lambda: fingerprints(seeds), most=3, warm=False)
    ratio = (all_ / many) / (one / few)
    reference = f"{few} jobs: {shown(one)}"
    return Row("planning", f"{many} jobs", shown(all_), reference, ratio, "times as long a job", high=1.5)


def start_up(measure: Measure) -> Row:
    """`harness --help` over an interpreter that does nothing."""

    def run(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    ours, bare = measure.seconds(run("-m", "harness.cli", "--help"), run("-c", "pass"))
    also = ("under 0.4 s", ours < 0.4)
    return Row(
        "start-up",
        "harness --help",
        shown(ours),
        f"python -c pass: {shown(bare)}",
        ours / bare,
        "times as long",
        also=also,
    )


CAMVID = (  # the preset's model and loop; its frames are made
    *("--preset", "camvid", "data.name=synthetic", "data.synthetic.height=360", "data.synthetic.width=480"),
    *("data.synthetic.train_videos=13", "data.synthetic.val_videos=1", "data.synthetic.frames=2", "train.epochs=1"),
)  # 52 iterations


def supervision(measure: Measure, words: Sequence[str] = CAMVID) -> Row:
    """A training under `harness run`, its journal told to MLflow, over the same job given to a rank alone.

    The two take turns at going first; the least of each is compared, since other work on the machine only adds.
    """
    took: dict[str, list[float]] = {"supervised": [], "alone": []}
    with tempfile.TemporaryDirectory() as place:
        job = _supervised(Path(place) / "warm", words)[1]  # the job, and a first run that warms files up
        for turn in range(min(measure.repeats, 4)):
            forms: list[tuple[str, Callable[[Path], float]]] = [
                ("supervised", lambda folder: _supervised(folder, words)[0]),
                ("alone", lambda folder: _alone(folder, job)),
            ]
            for name, form in forms if turn % 2 else reversed(forms):
                took[name].append(form(Path(place) / f"{name}{turn}"))
    ours, bare = (min(took[name]) for name in ("supervised", "alone"))
    setting = "UPerNet, the camvid preset's loop on synthetic frames" if words is CAMVID else "a training"
    spread = f"{shown(bare)} (runs differ by {max(took['alone']) - bare:.2g} s)"
    return Row(
        "supervision", setting, shown(ours), f"the rank alone: {spread}", ours / bare, "times as long", high=1.01
    )


def _supervised(place: Path, words: Sequence[str]) -> tuple[float, dict[str, Any]]:
    """Seconds of a training by `harness run`, and its job."""
    place.mkdir()
    _run(place, "-m", "harness.cli", "run", one_model.FILE, *words)
    (folder,) = (path.parent for path in place.glob("runs/jobs/*/weights.safetensors"))
    return _seconds(folder), json.loads((folder / "job.yaml").read_text())


def _alone(place: Path, job: dict[str, Any]) -> float:
    """Seconds of the same job, run by a rank that nobody watches."""
    folder = place / "jobs" / job["fingerprint"]
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(json.dumps({key: job[key] for key in job.keys() - {"attempt", "stall"}}))
    _run(place, "-m", "harness.engine.worker", str(folder))
    return _seconds(folder)


def _run(place: Path, *words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=place, env=child_environment(), check=True, capture_output=True)


def _seconds(folder: Path) -> float:
    return float(json.loads((folder / "outcome.json").read_text())["seconds"])


ROWS: list[Callable[[Measure], Row]] = [
    tma_read,
    confusion_counts,
    video_consistency,
    training_sample,
    training_clip,
    checkpoint_save,
    planning,
    start_up,
    supervision,
]
