"""The contract of a data set: videos of frames with class indices, read one frame at a time. No torch.

A file in harness/data/datasets exposes VERSION, a frozen dataclass Config with literal defaults (fields that say where,
not what, carry metadata {"where": True}) and a class Dataset(config) that has what the protocol below lists.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UnfitError

VOID = 255  # of up to 255 classes, in uint8
WIDE_VOID = 65535  # of more, in uint16

Label = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16


class Frame(NamedTuple):
    """One frame; label holds 0..K-1 and void(K), None where the frame has none."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label: Label | None  # (H, W)


def void(num_classes: int) -> int:
    """Return the label of pixels without a class."""
    return VOID if num_classes <= VOID else WIDE_VOID


def label_type(num_classes: int) -> type[np.unsignedinteger[Any]]:
    """Return the type that holds labels, void among them."""
    return np.uint8 if num_classes <= VOID else np.uint16


class Dataset(Protocol):
    """Videos by split ("train", "val", "test"); every method may raise UnfitError with the file and the remedy.

    Optional: `starts(split, video)`, the frames beside the first that no frame is before, as after a gap; and
    `labelled(split, video)`, the frames whose label `read` gives, in time: without it all, or none in a split whose
    first frame has none. A video may have none of them.
    """

    classes: tuple[str, ...]  # K names

    def videos(self, split: str) -> tuple[str, ...]:
        """Return the names of the split's videos, in the order of its list."""
        ...

    def frames(self, split: str, video: str) -> tuple[str, ...]:
        """Return the names of a video's frames in time."""
        ...

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Return one frame, decoded."""
        ...

    def digest(self, split: str) -> str | None:
        """Return the digest of the split's list and class names, never of its path; None if made, not read."""
        ...

    # Optional: `split_files(split: str) -> Iterable[tuple[str, Path]]`, a name within the split and a path for each
    # file that `read` reads there. With it a split is known by the content of its files (harness.data.manifest),
    # without it by `digest` alone. Files in folders `origin` and `mask` are called images and masks in messages.

    def unit(self, video: str) -> str:
        """Return the unit of an interval: the video itself, or the recording it was cut from."""
        ...

    def planned(self, split: str) -> int:
        """Return the number of videos, also where the data is absent (then as published)."""
        ...


def starts(dataset: Dataset, split: str, video: str) -> frozenset[str]:
    """Return the frames of a video that no frame is before: its first, and those that the data set names."""
    method: Callable[[str, str], frozenset[str]] | None = getattr(dataset, "starts", None)
    first = dataset.frames(split, video)[:1]
    return frozenset(first) if method is None else method(split, video) | {*first}


def labelled(dataset: Dataset, split: str, video: str) -> tuple[str, ...]:
    """Return the frames of a video that training draws and evaluation scores, in time."""
    method: Callable[[str, str], tuple[str, ...]] | None = getattr(dataset, "labelled", None)
    return dataset.frames(split, video) if method is None else method(split, video)


def labelled_videos(dataset: Dataset, split: str) -> tuple[str, ...]:
    """Return the videos that have a labelled frame, in the order of the split's list."""
    videos = dataset.videos(split)
    if getattr(dataset, "labelled", None) is None:
        return videos
    return tuple(video for video in videos if labelled(dataset, split, video))


def has_labels(dataset: Dataset, split: str) -> bool:
    """Return whether a split has labels to train on or to score by."""
    videos = labelled_videos(dataset, split)
    if not videos:
        return False
    return dataset.read(split, videos[0], labelled(dataset, split, videos[0])[0]).label is not None


def evaluated_videos(dataset: Dataset, split: str) -> tuple[str, ...]:
    """Return the videos that an evaluation reads: those with a labelled frame, all where none has one."""
    return labelled_videos(dataset, split) or dataset.videos(split)


def evaluated(dataset: Dataset, split: str, video: str) -> tuple[str, ...]:
    """Return the frames that an evaluation reads: up to the last labelled one, all where none is labelled."""
    names, scored = dataset.frames(split, video), labelled(dataset, split, video)
    return names[: names.index(scored[-1]) + 1] if scored else names


def planned(dataset: Dataset, split: str) -> int:
    """Return the number of videos that an epoch draws and an evaluation reads; where they are absent, `planned`."""
    if getattr(dataset, "labelled", None) is None:
        return dataset.planned(split)
    try:
        return len(evaluated_videos(dataset, split))
    except UnfitError:
        return dataset.planned(split)
