"""The predictions of a task's members as one: summed probabilities, its mask, and what metrics see of it.

Shapes: K classes, H × W pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from harness.data.contract import Frame
from harness.engine import sliding_window
from harness.engine.multistage import Prediction
from harness.engine.optical_flow import Flow
from harness.results.metric import ScoredFrame


class Result(NamedTuple):
    """A task's mask of a frame, and what it took."""

    mask: Tensor  # (H, W) int64
    before: Tensor | None  # (H, W), the mask of the stage before
    windows: int  # of all members
    exited: int | None  # of them, those that were not computed again; None where no stage is before
    seconds: float  # of its members' predictions, as if no other task shared them
    probabilities: Callable[[], Tensor]  # (K, H, W); of tasks with metrics of their own


class Sum:
    """Members' predictions for one P, added up; of one whose probabilities nobody needs, the mask alone is held."""

    def __init__(self, first: Prediction, keep: bool) -> None:
        self._total = first.probabilities if keep else None  # (K, H, W)
        self._mask: Tensor | None = first.mask
        self._members = 1
        self.windows, self.exited = first.windows, first.exited

    def add(self, other: Prediction) -> "Sum":
        """Add a member's probabilities."""
        assert self._total is not None
        self._total = self._total + other.probabilities
        self._mask = None
        self._members += 1
        self.windows += other.windows
        self.exited = None if self.exited is None or other.exited is None else self.exited + other.exited
        return self

    def mask(self) -> Tensor:
        """Return the most probable classes.  # (H, W)"""
        if self._mask is not None:
            return self._mask
        assert self._total is not None
        return sliding_window.labels(self._total)

    def probabilities(self) -> Tensor:
        """Return the mean of the members' probabilities.  # (K, H, W)"""
        assert self._total is not None
        return self._total / self._members


def scored_frame(frame: Frame, result: Result, first: bool, flow: Flow) -> ScoredFrame:
    """Return a frame as metrics see it."""
    mask = result.mask.cpu().numpy()
    return ScoredFrame(frame.image, frame.label, mask, first, lambda: result.probabilities().cpu().numpy(), flow)
