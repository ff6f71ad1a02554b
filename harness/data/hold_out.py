"""A part of the training videos held out: the split `dev`, for choices that must not be made on `val`.

Whole units are held out (videos, or the recordings they were cut from): two cuts of one recording are nearly the same
pictures. Units are taken in the order of a digest of their names, so that the choice depends on nothing else: it is
the same for every seed of the training, and another video on the list moves no other one.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from harness.common.errors import UnfitError
from harness.data import contract
from harness.data.contract import Dataset, Frame

VERSION = 1

SPLIT = "dev"
SEED = 0


class HoldOut:
    """A data set whose split `dev` is a `share` of the training videos, and `train` the others (core.data.Dataset)."""

    def __init__(self, dataset: Dataset, share: float) -> None:
        self.inner, self.share = dataset, share

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # pickle asks before there is an inner one
            raise AttributeError(name)
        return getattr(self.inner, name)  # classes, dirty

    @cached_property
    def _dev_videos(self) -> frozenset[str]:
        return dev_videos(self.inner.videos("train"), self.inner.unit, self.share)

    def videos(self, split: str) -> tuple[str, ...]:
        """Return the split's videos by name, in the order of its list. Raise UnfitError if none can be held out."""
        if split not in ("train", SPLIT):
            return self.inner.videos(split)
        return tuple(video for video in self.inner.videos("train") if (video in self._dev_videos) == (split == SPLIT))

    def frames(self, split: str, video: str) -> tuple[str, ...]:
        """Return the names of a video's frames in time."""
        return self.inner.frames(source(split), video)

    def starts(self, split: str, video: str) -> frozenset[str]:
        """Return the frames of a video that no frame is before."""
        return contract.starts(self.inner, source(split), video)

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Return one frame, decoded."""
        return self.inner.read(source(split), video, frame)

    def digest(self, split: str) -> str | None:
        """Return the digest of the list that the split is taken from."""
        return self.inner.digest(source(split))

    def unit(self, video: str) -> str:
        """Return the unit of an interval."""
        return self.inner.unit(video)

    def planned(self, split: str) -> int:
        """Return the number of videos; where the list is absent, as if each video were a unit."""
        if split not in ("train", SPLIT):
            return self.inner.planned(split)
        try:
            return len(self.videos(split))
        except UnfitError:
            whole = self.inner.planned("train")
            part = wanted(whole, self.share)
            return part if split == SPLIT else whole - part


def dev_videos(videos: Sequence[str], unit: Callable[[str], str], share: float) -> frozenset[str]:
    """Return the videos of as many units as make up the share; at least one is held out and at least one is left."""
    units: dict[str, list[str]] = {}
    for video in videos:
        units.setdefault(unit(video), []).append(video)
    if len(units) < 2:
        raise UnfitError(f"data.hold_out={share}: the training videos are one recording, so none can be held out")
    chosen: list[str] = []
    for name in sorted(units, key=rank)[:-1]:
        if len(chosen) >= wanted(len(videos), share):
            break
        chosen += units[name]
    return frozenset(chosen)


def wanted(videos: int, share: float) -> int:
    """Return the number of videos that make up the share."""
    return max(1, round(share * videos))


def rank(unit: str) -> str:
    """Return the key that units are sorted by before the first of them are held out."""
    return hashlib.sha256(f"{SEED} {unit}".encode()).hexdigest()


def source(split: str) -> str:
    """Return the data set's own split that a split is taken from."""
    return "train" if split == SPLIT else split
