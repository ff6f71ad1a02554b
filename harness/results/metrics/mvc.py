"""Video consistency over 8 and 16 frames (mVC8, mVC16), official and strict. Every evaluation counts it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.results import metric
from harness.results.metric import Floats, ScoredFrame
from harness.results.metrics import VARIANTS, WINDOWS, Consistency, consistency

VERSION = 1


@dataclass(frozen=True)
class Config:
    """No options."""


class Metric(metric.Counter):
    """Sums are the totals of `Consistency` (variants, windows, 2)."""

    names: ClassVar[Mapping[str, str]] = {
        f"mvc{frames}{variant}": f"mVC{frames}" for variant in VARIANTS for frames in WINDOWS
    }

    def __init__(self, num_classes: int, config: Any) -> None:
        super().__init__(num_classes, config)
        self._consistency = Consistency(num_classes)
        self.sums = self._consistency.totals

    def add(self, frame: ScoredFrame) -> None:
        """Count a frame that has labels."""
        if frame.label is not None:
            self._consistency.add(frame.label, frame.mask)

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return the mean over all windows of all videos."""
        numbers = consistency([sums])
        return {name: numbers.get(name, float("nan")) for name in self.names}
