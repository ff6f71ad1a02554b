"""P that is handed in to an evaluation: the ground truth's classes, or masks that an earlier evaluation saved.

Every other P is the mask of the stage before (harness/engine/multistage.py).
"""

import zlib
from pathlib import Path

import numpy as np
import torch
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


def labelled_frame(source: str, dataset: Dataset, split: str, where: Path, frame: Frame, scored: bool = True) -> Frame:
    """Return the frame whose labels are P at `where` (video/name): itself, the last labelled one before it, or one of
    any other video.

    A frame that none is before (contract.starts) takes itself; the other one is drawn evenly, the same each time. Of a
    frame that is not scored P is void.
    """
    video, name = str(where.parent), where.name.removesuffix(".png")
    if not scored and source in GIVEN:
        classes = len(dataset.classes)
        nothing = np.full(frame.image.shape[:2], contract.void(classes), contract.label_type(classes))
        return Frame(frame.image, nothing)
    if source == "truth_before":
        before = labelled_before(dataset, split, video, name)
        return frame if before == name else dataset.read(split, video, before)
    if source == "truth_other":
        rng = np.random.default_rng(zlib.crc32(str(where).encode()))
        others = [other for other in contract.labelled_videos(dataset, split) if other != video] or [video]
        other = others[rng.integers(len(others))]
        names = contract.labelled(dataset, split, other)
        drawn = dataset.read(split, other, names[rng.integers(len(names))])
        return drawn if drawn.label is None else drawn._replace(label=fitted(drawn.label, frame.image.shape[:2]))
    return frame


def labelled_before(dataset: Dataset, split: str, video: str, name: str) -> str:
    """Return the last labelled frame before one, back to where the video starts; itself if there is none."""
    names, starts = dataset.frames(split, video), contract.starts(dataset, split, video)
    labelled = set(contract.labelled(dataset, split, video))
    at = names.index(name)
    while names[at] not in starts:
        at -= 1
        if names[at] in labelled:
            return names[at]
    return name


def fitted(label: contract.Label, size: tuple[int, ...]) -> contract.Label:
    """Return a label at another size, nearest.  # (H, W)"""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape, strict=True))
    resized: contract.Label = label[rows[:, None], columns]
    return resized


def prior(source: str, where: Path, frame: Frame, num_classes: int) -> Tensor:
    """Return a P that is handed in: the labels of `frame`, or a saved mask of it.  # (H, W) int64, void as the data's

    Raise UnfitError for a frame without labels, and for a mask that is absent, damaged or of another size.
    """
    if source in GIVEN:
        if frame.label is None:
            raise UnfitError(f"{where}: P = ground truth needs labels, but this split has none; choose one that has")
        return torch.from_numpy(frame.label.astype(np.int64))
    path = Path(source) / where
    mask = read_labels(path, num_classes)
    if mask.shape != frame.image.shape[:2]:
        (height, width), (rows, columns) = mask.shape, frame.image.shape[:2]
        raise UnfitError(
            f"{shown(path)}: is {width}×{height}, its frame {columns}×{rows}; do these masks belong to other data?"
        )
    return torch.from_numpy(mask.astype(np.int64))
