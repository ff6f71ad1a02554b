"""IoU weighted by the classes' share of truth (fwIoU, VSPW's wIoU)."""

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

    names: ClassVar[Mapping[str, str]] = {"fwiou": "wIoU"}

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return the weighted mean."""
        return {"fwiou": Classes(*sums).fwiou}
