"""Share of pixels that are right, and its mean over classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.results import metric
from harness.results.metric import Floats
from harness.results.metrics import Classes

VERSION = 1


@dataclass(frozen=True)
class Config:
    """No options."""


class Metric(metric.Metric):
    """Of class sums (3, K)."""

    names: ClassVar[Mapping[str, str]] = {"accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return both."""
        classes = Classes(*sums)
        return {"accuracy": classes.accuracy, "mean_accuracy": classes.mean_accuracy}
