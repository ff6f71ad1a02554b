"""Share of pixels that are wrong although the model is sure of them."""

from dataclasses import dataclass, field

import numpy as np

from harness.results.metric import Counter

VERSION = 1


@dataclass(frozen=True)
class Config:
    """Probability from which the model counts as confident."""

    sure: float = field(default=0.9, metadata={"range": "[0, 1]"})


class Metric(Counter):
    """Sums (2,): labelled pixels, and those of them that are wrong and sure."""

    names = {"confident_errors": "confident errors"}
    better = "lower"

    def __init__(self, num_classes, config):
        super().__init__(num_classes, config)
        self.sums = np.zeros(2)

    def add(self, frame):
        if frame.label is None:
            return
        labelled = frame.label < self.num_classes
        wrong = labelled & (frame.mask != frame.label)
        sure = frame.probabilities.max(axis=0) >= self.config.sure
        self.sums += labelled.sum(), (wrong & sure).sum()

    def values(self, sums):
        pixels, errors = sums
        return {"confident_errors": errors / pixels if pixels else float("nan")}
