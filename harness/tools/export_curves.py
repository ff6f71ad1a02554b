"""A training's curves for people whose tools are not MLflow, from the journals alone: CSV, TensorBoard, W&B offline.

The points are those that MLflow is told: final ones, each step once, however often a training was resumed.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import UnfitError, UsageError
from harness.jobdir.events import read_events
from harness.jobdir.paths import JobDir
from harness.jobdir.replay import Point, Replay

COLUMNS = ("fingerprint", "decoder", "seed", "step", "seconds", "key", "value")


@dataclass(frozen=True)
class Curves:
    """One training's points: key, value, step, milliseconds since 1970."""

    fingerprint: str
    decoder: str
    seed: int
    points: Sequence[Point]

    @property
    def name(self) -> str:
        """A name that no other training has."""
        return f"{self.decoder}-seed{self.seed}-{self.fingerprint[:7]}"

    @property
    def steps(self) -> dict[int, dict[str, float]]:
        """Step -> key -> value, in the order of the steps; `_timestamp` is W&B's key for seconds since 1970."""
        steps: dict[int, dict[str, float]] = defaultdict(dict)
        for key, value, step, at in self.points:
            steps[step] |= {key: value, "_timestamp": at / 1000}
        return dict(sorted(steps.items()))


def read(folders: Iterable[JobDir]) -> list[Curves]:
    """Return the curves of the trainings among some jobs. Raise UnfitError where there is none."""
    curves = []
    for files in folders:
        job = files.description()
        if job.get("kind") == "train":
            points = Replay().hear(read_events(files.events_file)[0])
            curves.append(Curves(files.name, job["decoder"]["name"], job["seed"], points))
    curves = [training for training in curves if training.points]
    if not curves:
        raise UnfitError(
            "no training has logged a point yet: run one for longer than train.log_every, or give its --root DIR"
        )
    return curves


def to_csv(curves: Sequence[Curves], path: Path) -> None:
    """Write a line a point, all trainings in one file; an older file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for training in curves:
            who = (training.fingerprint, training.decoder, training.seed)
            writer.writerows((*who, step, at / 1000, key, value) for key, value, step, at in training.points)


def to_tensorboard(curves: Sequence[Curves], folder: Path) -> None:
    """Write a folder of TensorBoard's a training. Raise UnfitError without tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnfitError(f"tensorboard is not installed ({error}): pip install tensorboard") from error
    refuse_twice(folder)
    for training in curves:
        with SummaryWriter(str(folder / training.name)) as writer:
            for key, value, step, at in training.points:
                writer.add_scalar(key, value, step, at / 1000)


def to_wandb(curves: Sequence[Curves], folder: Path) -> None:
    """Write an offline run of Weights & Biases a training; nothing is sent. Raise UnfitError without wandb."""
    try:
        import wandb
    except ImportError as error:
        raise UnfitError(f"wandb is not installed ({error}): pip install wandb") from error
    refuse_twice(folder)
    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
    for training in curves:
        config = {"decoder": training.decoder, "seed": training.seed, "fingerprint": training.fingerprint}
        run = wandb.init(
            mode="offline",
            dir=str(folder),
            project="harness",
            id=training.fingerprint,
            name=training.name,
            config=config,
            settings=quiet,
        )
        for step, values in training.steps.items():
            run.log(values, step=step)
        run.finish()
    wandb.teardown()  # waits until all is written


def refuse_twice(folder: Path) -> None:
    """Raise UsageError for a folder that holds something: those tools would show every point twice."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: already exists and is not empty; give another folder, or remove it")
