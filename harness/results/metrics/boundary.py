"""How good masks are along the outlines: boundary IoU, boundary F and mIoU in a band around them (trimap).

Each a mean over the classes with truth there, of pixels summed over all frames with labels.

- boundary_iou: IoU of the parts of truth and prediction within `width` of their own outline, in chessboard distance;
  the frame's border is an outline. Source: Cheng et al., Boundary IoU (CVPR 2021), whose `width` is 0.02.
- boundary_f: F of the outlines' pixels, those within `tolerance` of the other's outline of the class being right.
  Source: Csurka et al. (BMVC 2013), whose tolerance is 0.0075.
- trimap_miou: mIoU over pixels at most `trimap` from an outline of the truth. Source: Kohli et al. (IJCV 2009).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import hypot
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from harness.results import metric
from harness.results.metric import Floats, ScoredFrame
from harness.results.metrics import Classes

VERSION = 1

Labels = NDArray[np.int64]  # (H, W); OUTSIDE: beyond the frame, or no outline
OUTSIDE = -1


@dataclass(frozen=True)
class Config:
    """Distances: shares of the frame's diagonal, and pixels of the band; each at least a pixel."""

    width: float = field(default=0.02, metadata={"range": "(0, 1]"})
    tolerance: float = field(default=0.0075, metadata={"range": "(0, 1]"})
    trimap: int = field(default=5, metadata={"range": "[1, inf)"})


class Metric(metric.Counter):
    """Sums (10, K): boundary IoU's class sums; outline pixels predicted and right, of truth and met; the trimap's."""

    names: ClassVar[Mapping[str, str]] = {
        "boundary_iou": "boundary IoU",
        "boundary_f": "boundary F",
        "trimap_miou": "trimap mIoU",
    }

    def __init__(self, num_classes: int, config: Any) -> None:
        super().__init__(num_classes, config)
        self.sums = np.zeros((10, num_classes))

    def add(self, frame: ScoredFrame) -> None:
        """Count a frame that has labels."""
        if frame.label is None:
            return
        truth, mask, valid = frame.label.astype(int), frame.mask.astype(int), frame.label < self.num_classes
        diagonal = hypot(*truth.shape)
        width = max(1, round(self.config.width * diagonal))
        ours, theirs = (near(labels, width, OUTSIDE) & valid for labels in (mask, truth))
        self._classes(0, truth, mask, theirs, ours)
        outlines = [np.where(outline(labels) & valid, labels, OUTSIDE) for labels in (mask, truth)]
        radius = max(1.0, self.config.tolerance * diagonal)
        for row, (own, other) in enumerate((outlines, outlines[::-1])):
            there = own != OUTSIDE
            self._count(3 + 2 * row, own[there])
            self._count(4 + 2 * row, own[there][met(own, other, radius)])
        band = near(truth, self.config.trimap, None) & valid
        self._classes(7, truth, mask, band, band)

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return all three."""
        predicted, right, truth, covered = sums[3:7]
        # F = 2 P R / (P + R) with P = right / predicted, R = covered / truth
        product, total = right * covered, right * truth + covered * predicted
        score = np.divide(2 * product, total, out=np.zeros_like(total), where=total > 0)[truth > 0]
        return {
            "boundary_iou": Classes(*sums[:3]).miou,
            "boundary_f": float(score.mean()) if score.size else float("nan"),
            "trimap_miou": Classes(*sums[7:]).miou,
        }

    def _classes(
        self, row: int, truth: Labels, mask: Labels, of_truth: NDArray[np.bool_], of_mask: NDArray[np.bool_]
    ) -> None:
        """Add class sums of the truth and the mask, each where it counts, to three rows."""
        self._count(row, truth[of_truth & of_mask & (truth == mask)])
        self._count(row + 1, truth[of_truth])
        self._count(row + 2, mask[of_mask])

    def _count(self, row: int, classes: Labels) -> None:
        self.sums[row] += np.bincount(classes, minlength=self.num_classes)


def near(labels: Labels, distance: int, border: int | None) -> NDArray[np.bool_]:
    """Return the pixels within a chessboard distance of another label; `border`: the label beyond the frame, if any."""
    how: dict[str, Any] = {"mode": "nearest"} if border is None else {"mode": "constant", "cval": border}
    low, high = (filtered(labels, 2 * distance + 1, **how) for filtered in (minimum_filter, maximum_filter))
    different: NDArray[np.bool_] = low != high
    return different


def outline(labels: Labels) -> NDArray[np.bool_]:
    """Return the pixels with a neighbour of another label above, below, left or right."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels, axis=axis) != 0
        before, after = (slice(None, -1), slice(1, None))
        edge[before if axis == 0 else (slice(None), before)] |= step
        edge[after if axis == 0 else (slice(None), after)] |= step
    return edge


def met(own: Labels, other: Labels, radius: float) -> NDArray[np.bool_]:
    """Return for each outline pixel of `own`, in order, whether `other` has one of its class within the radius."""
    reach = int(radius)
    padded = np.pad(other, reach, constant_values=OUTSIDE)
    rows, columns = np.nonzero(own != OUTSIDE)
    classes, hit = own[rows, columns], np.zeros(len(rows), bool)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if hypot(down, right) <= radius:
                hit |= padded[rows + reach + down, columns + reach + right] == classes
    return hit
