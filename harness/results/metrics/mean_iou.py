"""mIoU, as VSPW's script takes it and as mmsegmentation does."""

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

    names: ClassVar[Mapping[str, str]] = {"miou": "mIoU", "miou_nanmean": "mIoU, nanmean"}

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return the mean over classes with truth, and over those with truth or prediction."""
        classes = Classes(*sums)
        return {"miou": classes.miou, "miou_nanmean": classes.miou_nanmean}
