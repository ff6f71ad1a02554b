"""The contract of a metric: sums of each video that add up, and the numbers that are read off them.

A file of harness/results/metrics, or of a `metrics/` folder of your own, exposes VERSION, a frozen dataclass Config
with literal defaults and a class Metric. It may not import torch: numbers are read where there is none.

Shapes: K classes, H × W pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredFrame:
    """One frame of an evaluation, as a metric sees it. What takes a while is computed when it is first asked for."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label: NDArray[np.integer] | None  # (H, W) 0..K-1, all else is void; None for a frame without labels
    mask: NDArray[np.integer]  # (H, W) 0..K-1, the prediction
    first: bool  # no frame is before it: a video's first, or the first after a gap
    compute_probabilities: Callable[[], NDArray[np.float32]]
    compute_flow: Callable[[str, str | None], NDArray[np.float32]]

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the class probabilities whose argmax the mask is; they sum to 1 in each pixel.  # (K, H, W)"""
        return self.compute_probabilities()

    def flow(self, method: str, weights: str | None = None) -> NDArray[np.float32]:
        """Return the optical flow from the frame before to this one, (x, y) pixels; not of a `first` one.  # (H, W, 2)

        `method`: "dis" (OpenCV) or "raft_small", "raft_large" (torchvision, whose `weights` are a file).
        """
        return self.compute_flow(method, weights)


class Metric:
    """A metric of the class sums that every evaluation keeps; with a method `add`, one with counts of its own.

    Without `add`, `values` is given the class sums (3, K): pixels that are right, of truth, predicted. A metric with
    `add` is made anew for each video, and `values` is given `sums` added up over videos.
    """

    names: ClassVar[Mapping[str, str]] = {}  # each of its numbers, as keys of JSON and CSV -> its header in tables
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    flow: tuple[str, str | None] | None = None  # arguments of ScoredFrame.flow, if it asks for it: tried before a run

    def __init__(self, num_classes: int, config: Any) -> None:
        self.num_classes, self.config = num_classes, config

    def values(self, sums: Floats) -> Mapping[str, float]:
        """Return every number of `names` from added sums, as a share (0..1) that tables show in percent; nan: none."""
        raise NotImplementedError

    def by_class(self, sums: Floats) -> Mapping[str, Floats]:
        """Return numbers (K,) for the table by class, by header, as shares; nan for a class that has none."""
        del sums
        return {}


class Counter(Metric):
    """A metric with counts of its own."""

    sums: Floats  # of the video at hand; of one shape for every video

    def add(self, frame: ScoredFrame) -> None:
        """Count the next frame of the video."""
        raise NotImplementedError


def counts_itself(metric: Metric | type[Metric]) -> bool:
    """Return whether a metric has counts of its own, for which an evaluation must be run."""
    return callable(getattr(metric, "add", None))
