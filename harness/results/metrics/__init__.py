"""The metrics, one a file, and what they share: numbers of confusion matrices and frames as VSPW's scripts take them
(`utils.Evaluator`, `VC_perclip`).

Shapes: K classes; a confusion matrix is (K, K) of pixels, rows are truth, columns are prediction. Void is not in it.
Truth and masks of a frame are (H, W).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Scores = NDArray[np.float64]
Mask = NDArray[np.integer]

WINDOWS = (8, 16)  # frames that must agree: mVC8 and mVC16
VARIANTS = ("", "_strict")


class Classes(NamedTuple):
    """The pixels of each class, of which every number of a confusion matrix here is made.  # (K,) each"""

    hits: Scores
    truth: Scores
    predicted: Scores

    @classmethod
    def of(cls, confusion: Counts) -> Self:
        """Return the classes of a confusion matrix (K, K)."""
        return cls(np.diagonal(confusion).astype(np.float64), confusion.sum(axis=1), confusion.sum(axis=0))

    @property
    def iou(self) -> Scores:
        """Return the intersection over union of each class; nan for one in neither truth nor prediction.  # (K,)"""
        return _ratio(self.hits, self.predicted + self.truth - self.hits)

    @property
    def precision(self) -> Scores:
        """Return the share of each class's predictions that is right; nan for a class never predicted.  # (K,)"""
        return _ratio(self.hits, self.predicted)

    @property
    def recall(self) -> Scores:
        """Return the share of each class's truth that is predicted; nan for a class without truth.  # (K,)"""
        return _ratio(self.hits, self.truth)

    @property
    def miou(self) -> float:
        """Return the mean over the classes with truth; one only predicted is left out. nan if no class has truth.

        Source: `Evaluator.Mean_Intersection_over_Union` of VSPW_baseline.
        """
        return _mean(self.iou[self.truth > 0])

    @property
    def miou_nanmean(self) -> float:
        """Return the mean over classes with truth or prediction, as mmsegmentation does: one only predicted is 0."""
        return _mean(self.iou[~np.isnan(self.iou)])

    @property
    def fwiou(self) -> float:
        """Return the intersection over union weighted by the share of truth; nan if there is none.

        Source: `Evaluator.Frequency_Weighted_Intersection_over_Union` of VSPW_baseline.
        """
        if self.truth.sum() == 0:
            return float("nan")
        share = self.truth / self.truth.sum()
        return float((share * self.iou)[self.truth > 0].sum())

    @property
    def accuracy(self) -> float:
        """Return the share of pixels that are right; nan without pixels."""
        pixels = self.truth.sum()
        return float(self.hits.sum() / pixels) if pixels else float("nan")

    @property
    def mean_accuracy(self) -> float:
        """Return the mean recall over the classes that have truth; nan if none has."""
        return _mean(self.recall[self.truth > 0])


def iou(confusion: Counts) -> Scores:
    """Return the IoU of each class (Classes.iou).  # (K,)"""
    return Classes.of(confusion).iou


def miou(confusion: Counts) -> float:
    """Return the official mIoU (Classes.miou)."""
    return Classes.of(confusion).miou


def miou_nanmean(confusion: Counts) -> float:
    """Return the toolbox's mIoU (Classes.miou_nanmean)."""
    return Classes.of(confusion).miou_nanmean


def fwiou(confusion: Counts) -> float:
    """Return the weighted IoU (Classes.fwiou)."""
    return Classes.of(confusion).fwiou


def accuracy(confusion: Counts) -> float:
    """Return the share of pixels that are right (Classes.accuracy)."""
    return Classes.of(confusion).accuracy


def mean_accuracy(confusion: Counts) -> float:
    """Return the mean recall (Classes.mean_accuracy)."""
    return Classes.of(confusion).mean_accuracy


def _ratio(part: Scores, whole: Scores | Counts) -> Scores:
    ratio: Scores = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _mean(scores: Scores) -> float:
    return float(scores.mean()) if scores.size else float("nan")


class Consistency:
    """Video consistency of one video, frame by frame: the last frame and run lengths are all that is kept of it.

    A window of n frames scores the share of pixels of constant truth whose prediction is constant as well. A pixel is
    constant over the last n frames exactly if its run of equal labels is n frames long.

    The official variant asks no prediction to be right, takes void for a label and leaves out each video's last window
    (`range(L - n)`). The strict one takes every window, leaves void out and asks the prediction to be right.

    Where frames between have no truth (`interrupt`), each run of frames that have it counts as a video of its own.
    """

    def __init__(self, num_classes: int, windows: Sequence[int] = WINDOWS) -> None:
        self.num_classes, self.windows = num_classes, tuple(windows)
        self.totals = np.zeros((len(VARIANTS), len(windows), 2))  # by variant and window: sum of scores, their number
        self._frames = 0
        self._last: tuple[Mask, Mask] | None = None
        self._runs: tuple[NDArray[np.uint8], NDArray[np.uint8]]
        self._last_scores = np.zeros(
            (len(windows), 2)
        )  # official scores of the windows that end at the last frame so far

    def add(self, truth: Mask, mask: Mask) -> None:
        """Add the next frame."""
        if self._last is None or self._last[0].shape != truth.shape:  # frames of two sizes have no pixel in common
            self._runs = (np.ones(truth.shape, np.uint8), np.ones(truth.shape, np.uint8))
        else:
            self._runs = (self._run(0, truth), self._run(1, mask))
        self._last = (truth.copy(), mask.copy())
        self._frames += 1
        self.totals[0] += self._last_scores
        self._last_scores = np.zeros_like(self._last_scores)
        valid = (truth >= 0) & (truth < self.num_classes)
        right = mask == truth
        for column, frames in enumerate(self.windows):
            if self._frames >= frames:
                stable, kept = (run >= frames for run in self._runs)
                self._last_scores[column] = _share(stable & kept, stable)
                self.totals[1, column] += _share(stable & kept & valid & right, stable & valid)

    def interrupt(self) -> None:
        """Let the next frame begin a run of its own: a frame before it has no truth."""
        self._last, self._frames = None, 0
        self._last_scores = np.zeros_like(self._last_scores)

    def _run(self, which: int, labels: Mask) -> NDArray[np.uint8]:
        """Return for how many frames each pixel has had its label, up to the longest window."""
        assert self._last is not None
        same = labels == self._last[which]
        runs: NDArray[np.uint8] = np.minimum(self._runs[which], max(self.windows) - 1) * same + np.uint8(1)
        return runs


def consistency(videos: Iterable[Scores], windows: Sequence[int] = WINDOWS) -> dict[str, float]:
    """Return mVC by name (mvc8, mvc16, mvc8_strict, ...) from videos' totals: a mean over all windows of all videos.

    A name without any window is left out.
    """
    totals = np.sum(list(videos), axis=0)
    return {
        f"mvc{frames}{variant}": float(totals[row, column, 0] / totals[row, column, 1])
        for row, variant in enumerate(VARIANTS)
        for column, frames in enumerate(windows)
        if totals.ndim and totals[row, column, 1] > 0
    }


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> tuple[float, int]:
    """Return a window's score and that it counts; neither where no pixel of truth is constant."""
    pixels = np.count_nonzero(whole)
    return (np.count_nonzero(part) / pixels, 1) if pixels else (0.0, 0)
