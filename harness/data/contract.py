"""The contract of a data set: videos of frames with class indices, read one frame at a time. No torch.

A file in harness/data/datasets exposes VERSION, a frozen dataclass Config with literal defaults (fields that say where,
not what, carry metadata {"where": True}) and a class Dataset(config) that has what the protocol below lists.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

VOID = 255


class Frame(NamedTuple):
    """One frame; label holds 0..K-1 and 255 for void, None where a split has no labels."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label: NDArray[np.uint8] | None  # (H, W)


class Dataset(Protocol):
    """Videos by split ("train", "val", "test"); every method may raise UnfitError with the file and the remedy.

    Optional: `starts(split, video)`, the frames beside the first that no frame is before, as after a gap.
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
