"""Precision and recall: their means over the classes with truth, and of each class in the table by class.

Of the class sums that every evaluation keeps: choosing it evaluates nothing again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.results import metric
from harness.results.metric import Floats
from harness.results.metrics import Classes

VERSION = 1


@dataclass(frozen=True)
class Config:
    """No options."""


class Metric(metric.Metric):
    """Of class sums (3, K)."""

    names: ClassVar[Mapping[str, str]] = {"precision": "mean precision", "recall": "mean recall"}

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return the means; a class with truth that is never predicted has a precision of 0."""
        classes = Classes(*sums)
        there = classes.truth > 0
        if not there.any():
            return dict.fromkeys(self.names, float("nan"))
        precision = np.nan_to_num(classes.precision[there])
        return {"precision": float(precision.mean()), "recall": float(classes.recall[there].mean())}

    def by_class(self, sums: Floats) -> Mapping[str, Floats]:
        """Return both of each class."""
        classes = Classes(*sums)
        return {"precision": classes.precision, "recall": classes.recall}
