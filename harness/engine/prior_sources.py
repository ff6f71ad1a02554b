"""P that is handed in to an evaluation: the ground truth's classes, or masks that an earlier evaluation saved.

Every other P is the mask of the stage before (harness/engine/multistage.py).
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.common.errors import UnfitError
from harness.data import contract
from harness.data.contract import Dataset, Frame
from harness.data.pictures import read_labels, shown
from harness.jobdir.paths import JobDir
from harness.plan import spec
from harness.plan.job import GIVEN
from harness.plan.spec import EvaluateSpec


def handed_in(job: EvaluateSpec) -> str | None:
    """Return the source of a P that is handed in: one of GIVEN, or a folder of masks; None for the stage before.

    Raise UnfitError for masks of which nothing says whose they are. Those of another stage than a job's are not its.
    """
    if job.prior in GIVEN:
        return job.prior
    saved = job.evaluate.prior_masks
    if saved is None or job.prior is None:
        return None
    folder = Path(saved).expanduser()
    return str(JobDir(folder).masks) if spec.read(folder).fingerprint == job.prior else None


def labelled_frame(source: str, dataset: Dataset, split: str, where: Path, frame: Frame) -> Frame:
    """Return the frame whose labels are P at `where` (video/name): itself, the one before, or one of any other video.

    A frame that none is before (contract.starts) takes itself; the other one is drawn evenly, the same each time.
    """
    video, name = str(where.parent), where.stem
    if source == "truth_before":
        names = dataset.frames(split, video)
        before = name if name in contract.starts(dataset, split, video) else names[names.index(name) - 1]
        return frame if before == name else dataset.read(split, video, before)
    if source == "truth_other":
        rng = np.random.default_rng(zlib.crc32(str(where).encode()))
        others = [other for other in dataset.videos(split) if other != video] or [video]
        other = others[rng.integers(len(others))]
        names = dataset.frames(split, other)
        drawn = dataset.read(split, other, names[rng.integers(len(names))])
        return drawn if drawn.label is None else drawn._replace(label=fitted(drawn.label, frame.image.shape[:2]))
    return frame


def fitted(label: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a label at another size, nearest.  # (H, W)"""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape, strict=True))
    resized: NDArray[np.uint8] = label[rows[:, None], columns]
    return resized


def prior(source: str, where: Path, frame: Frame, num_classes: int) -> Tensor:
    """Return a P that is handed in: the labels of `frame`, or a saved mask of it.  # (H, W) int64, 255 void

    Raise UnfitError for a frame without labels, and for a mask that is absent, damaged or of another size.
    """
    if source in GIVEN:
        if frame.label is None:
            raise UnfitError(f"{where}: P = ground truth needs labels, but this split has none; choose one that has")
        return torch.from_numpy(frame.label).long()
    path = Path(source) / where
    mask = read_labels(path, num_classes)
    if mask.shape != frame.image.shape[:2]:
        (height, width), (rows, columns) = mask.shape, frame.image.shape[:2]
        raise UnfitError(
            f"{shown(path)}: is {width}×{height}, its frame {columns}×{rows}; are these masks of other data?"
        )
    return torch.from_numpy(mask).long()
