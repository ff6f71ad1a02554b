"""Intervals over a data set's units, and what may be said of the paper's gains from them. Pure: no files, no frame.

Shapes: U units (videos, or the recordings they were cut from), K classes, R resamples.

Units are drawn with replacement, never pixels or frames: frames of one video err together. mIoU is the official one
(`metrics.miou`) of a resample's summed confusion matrices, so classes without truth in a resample are left out of it.
The draw depends on U and SEED alone: two cells over the same units meet the same resamples, which pairs their gain.
The trainings are held fixed: noise between seeds is another thing, and is told apart from this one.

What to know: an IoU over few units is biased, and a resample is biased once more. Where many classes stand in few
units the interval of an mIoU therefore lies low and covers less than it says; in a gain most of that cancels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.results.paper import count

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0  # a report is the same whenever it is made again
CHUNK = 1000  # resamples at a time: memory stays at some 10 MB for VSPW
FEWEST = 20  # units; a percentile interval over fewer covers far less than it says
SEEDS = 3  # trainings on each side, before a gain between trainings is more than that of one pair

REPRODUCED = "reproduced"
SAME_SIGN = "same sign"
UNDECIDED = "undecided"
CONTRADICTED = "contradicted"
NOT_COMPARABLE = "not comparable"
ONE_PAIR = "this pair of checkpoints only"
WORDS = (REPRODUCED, SAME_SIGN, UNDECIDED, CONTRADICTED, NOT_COMPARABLE, ONE_PAIR)
RULE = (
    f"Verdict on a gain of the paper: {REPRODUCED}: our {LEVEL:.0%} interval excludes 0 on the paper's side and "
    f"contains the paper's gain; {SAME_SIGN}: it excludes 0 on the paper's side; {UNDECIDED}: it contains 0; "
    f"{CONTRADICTED}: it excludes 0 on the other side; {NOT_COMPARABLE}: our data, backbone, schedule or BN group is "
    f"not the paper's; {ONE_PAIR}: a gain between trainings with fewer than {SEEDS} seeds (evaluations of the same "
    f"checkpoints need no more than one). Under {FEWEST} units there is neither interval nor verdict."
)

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A percentile interval; without one, why (None as well where there is no number to put one around)."""

    low: float | None = None
    high: float | None = None
    reason: str | None = None


class Verdict(NamedTuple):
    """One of WORDS, or None where nothing may be said; and why it is no more than that."""

    word: str | None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class UnitSums:
    """All that mIoU needs of one evaluation, by unit: 3 K numbers each instead of K²."""

    names: tuple[str, ...]  # U units, sorted
    sums: Floats  # (U, 3, K): hits, truth, prediction, in pixels; whole numbers below 2**53, so sums are exact
    videos: int
    recordings: bool  # whether a unit is more than the video itself

    @property
    def described(self) -> str:
        """'343 videos', '4 videos of 1 recording'."""
        made_of = f" of {count(len(self.names), 'recording')}" if self.recordings else ""
        return count(self.videos, "video") + made_of

    @cached_property
    def resampled(self) -> Floats:
        """mIoU of every resample, 0..1; nan where a resample holds no truth at all.  # (R,)"""
        return np.concatenate([miou(self.sums, drawn) for drawn in draws(len(self.names))])


def unit_sums(videos: Mapping[str, NDArray[np.int64]], unit_of: Mapping[str, str] | None = None) -> UnitSums:
    """Confusion matrices by video (K, K; rows are truth), summed by unit; a video is its own unit without `unit_of`.

    Raises ValueError without videos, for matrices of different shapes, and for a video that `unit_of` lacks.
    """
    unit_of = {video: video for video in videos} if unit_of is None else unit_of
    lost = sorted(set(videos) - set(unit_of))
    if lost or not videos:
        raise ValueError(f"video {lost[0]} has no unit" if lost else "no videos")
    names = sorted({unit_of[video] for video in videos})
    classes = len(next(iter(videos.values())))
    sums = np.zeros((len(names), 3, classes))
    place = {name: index for index, name in enumerate(names)}
    for video, confusion in videos.items():
        if confusion.shape != (classes, classes):
            raise ValueError(f"video {video}: a matrix of {confusion.shape}, not of {(classes, classes)}")
        sums[place[unit_of[video]]] += (np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    return UnitSums(tuple(names), sums, len(videos), any(unit_of[video] != video for video in videos))


def draws(units: int) -> Iterator[Floats]:
    """How often each unit stands in each resample, RESAMPLES rows in chunks; equal for equal `units`.  # (r, U)"""
    generator = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, CHUNK):
        rows = min(CHUNK, RESAMPLES - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def miou(sums: Floats, drawn: Floats) -> Floats:
    """The official mIoU of each resample of `sums` (U, 3, K); nan where no class has truth.  # (r, U) -> (r,)"""
    units, parts, classes = sums.shape
    total = (drawn @ sums.reshape(units, parts * classes)).reshape(len(drawn), parts, classes)
    hit, truth, predicted = total[:, 0], total[:, 1], total[:, 2]  # (r, K)
    there = truth > 0
    iou = np.divide(hit, truth + predicted - hit, out=np.zeros_like(hit), where=there)
    classes_there = there.sum(axis=1)
    return np.divide(iou.sum(axis=1), classes_there, out=np.full(len(drawn), np.nan), where=classes_there > 0)


def interval(cells: Sequence[UnitSums | None], over: Sequence[UnitSums | None] = ()) -> Interval:
    """LEVEL interval of the mean mIoU (0..1) over `cells`, one a seed; less that of `over`, paired by resample.

    None stands for an evaluation whose matrices are not at hand.
    """
    every = [one for one in (*cells, *over) if one is not None]
    if not cells:
        return Interval()
    if len(every) < len(cells) + len(over):
        return Interval(reason="confusion matrices by video are not at hand")
    first = every[0]
    if any(one.names != first.names or one.sums.shape != first.sums.shape for one in every):
        return Interval(reason="not the same videos and classes throughout")
    if len(first.names) < FEWEST:
        return Interval(reason=f"{first.described}: fewer than {FEWEST} units")
    values = np.mean([one.resampled for one in every[: len(cells)]], axis=0)
    if over:
        values = values - np.mean([one.resampled for one in every[len(cells) :]], axis=0)
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(reason="no pixel has a label")
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def verdict(theirs: float, ours: Interval, reasons: Sequence[str], seeds: int, same_checkpoints: bool) -> Verdict:
    """What our interval of a gain says of the paper's gain (same unit; RULE in words). The interval is closed.

    `reasons`: why our setting is not the paper's (`paper.not_the_papers`); `seeds`: trainings on each side.
    Raises ValueError where the paper's gain is 0, which has no side.
    """
    if theirs == 0:
        raise ValueError("a gain of 0 has no side")
    if ours.low is None or ours.high is None:
        return Verdict(None, ours.reason)
    if reasons:
        return Verdict(NOT_COMPARABLE, "; ".join(reasons))
    if seeds < SEEDS and not same_checkpoints:
        return Verdict(ONE_PAIR, f"{count(seeds, 'seed')}, fewer than {SEEDS}")
    if ours.low <= 0 <= ours.high:
        return Verdict(UNDECIDED)
    if (ours.low > 0) != (theirs > 0):
        return Verdict(CONTRADICTED)
    return Verdict(REPRODUCED if ours.low <= theirs <= ours.high else SAME_SIGN)
