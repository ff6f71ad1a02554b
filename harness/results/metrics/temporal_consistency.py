"""Temporal consistency (TC): mIoU of a frame's mask and the next frame's, brought back by the optical flow.

Source: `TC_cal.py` of the VSPW authors (RAFT, one confusion matrix over all pairs of frames). Pixels that the flow
leads out of the frame are left out here, where the script gives them class 0. Needs no labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.results import metric
from harness.results.metric import Floats, ScoredFrame
from harness.results.metrics import Classes

VERSION = 1


@dataclass(frozen=True)
class Config:
    """The flow: OpenCV's DIS, or torchvision's RAFT, whose weights are a file of its state."""

    flow: Literal["dis", "raft_small", "raft_large"] = "dis"
    weights: str | None = field(default=None, metadata={"where": True, "content": True})


class Metric(metric.Counter):
    """Sums (3, K): pixels of the same class, of the frame before, of this one brought back."""

    names: ClassVar[Mapping[str, str]] = {"tc": "TC"}

    def __init__(self, num_classes: int, config: Any) -> None:
        super().__init__(num_classes, config)
        self.sums = np.zeros((3, num_classes))
        self.flow = config.flow, config.weights
        self._before: NDArray[np.integer] | None = None

    def add(self, frame: ScoredFrame) -> None:
        """Compare a frame's mask with the one before."""
        before, self._before = self._before, frame.mask
        if before is None or frame.first or before.shape != frame.mask.shape:
            return
        height, width = before.shape
        flow = frame.flow(self.config.flow, self.config.weights)
        rows, columns = np.indices(before.shape)
        x, y = np.rint(columns + flow[..., 0]).astype(int), np.rint(rows + flow[..., 1]).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        now, then = frame.mask[y[inside], x[inside]], before[inside]
        for row, classes in enumerate((then[now == then], then, now)):
            self.sums[row] += np.bincount(classes, minlength=self.num_classes)

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return the mean over the classes of the frames before."""
        return {"tc": Classes(*sums).miou}
