"""Expected calibration error (ECE) of the probabilities: |confidence - accuracy|, a mean over bins of confidence.

Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), Eq. 3, over all labelled pixels. An
ensemble's probabilities are the mean of its members'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from harness.results import metric
from harness.results.metric import Floats, ScoredFrame

VERSION = 1


@dataclass(frozen=True)
class Config:
    """Bins of equal width of the confidence."""

    bins: int = field(default=15, metadata={"range": "[1, inf)"})


class Metric(metric.Counter):
    """Sums (3, bins): pixels, their confidence, those that are right."""

    names: ClassVar[Mapping[str, str]] = {"ece": "ECE"}
    better = "lower"

    def __init__(self, num_classes: int, config: Any) -> None:
        super().__init__(num_classes, config)
        self.sums = np.zeros((3, config.bins))

    def add(self, frame: ScoredFrame) -> None:
        """Count a frame that has labels."""
        if frame.label is None:
            return
        valid = frame.label < self.num_classes
        confidence = frame.probabilities.max(axis=0)[valid].astype(np.float64)
        right = frame.mask[valid] == frame.label[valid]
        bins = self.config.bins
        index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are (low, high]
        for row, weights in enumerate((None, confidence, right)):
            self.sums[row] += np.bincount(index, weights, bins)

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return Σ |confidence - right| / pixels."""
        pixels, confidence, right = sums
        total = pixels.sum()
        return {"ece": float(np.abs(confidence - right).sum() / total) if total else float("nan")}
