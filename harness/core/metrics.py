"""Numbers from confusion matrices, as VSPW's official evaluator takes them (`utils.Evaluator`).

Shapes: K classes; a confusion matrix is (K, K) of pixels, rows are truth, columns are prediction. Void is not in it.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


def iou(confusion: Counts) -> Scores:
    """Intersection over union of each class; nan for a class in neither truth nor prediction.  # (K,)"""
    hit = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    return _ratio(hit, union)


def miou(confusion: Counts) -> float:
    """Mean over the classes that have truth; one that is only predicted is left out. nan if no class has truth.

    Source: `Evaluator.Mean_Intersection_over_Union` of VSPW_baseline.
    """
    return _mean(iou(confusion)[confusion.sum(axis=1) > 0])


def miou_nanmean(confusion: Counts) -> float:
    """Mean over the classes with truth or prediction, as mmsegmentation averages: one only predicted counts as 0."""
    scores = iou(confusion)
    return _mean(scores[~np.isnan(scores)])


def fwiou(confusion: Counts) -> float:
    """Intersection over union weighted by the share of truth; nan if there is none.

    Source: `Evaluator.Frequency_Weighted_Intersection_over_Union` of VSPW_baseline.
    """
    truth = confusion.sum(axis=1)
    if truth.sum() == 0:
        return float("nan")
    share = truth / truth.sum()
    return float((share * iou(confusion))[truth > 0].sum())


def accuracy(confusion: Counts) -> float:
    """Share of pixels that are right; nan without pixels."""
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else float("nan")


def mean_accuracy(confusion: Counts) -> float:
    """Mean recall over the classes that have truth; nan if none has."""
    truth = confusion.sum(axis=1)
    recall = _ratio(np.diagonal(confusion).astype(np.float64), truth)
    return _mean(recall[truth > 0])


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64] | Counts) -> Scores:
    nothing = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=nothing, where=whole > 0)


def _mean(scores: Scores) -> float:
    return float(scores.mean()) if scores.size else float("nan")
