"""Which of a training's weights are kept, and when it ends early: by its evaluations on held-out training videos."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.config.sections import TrainConfig

VERSION = 1


@dataclass
class Selection:
    """The best evaluation so far. Its weights are kept, on the CPU, where `keeps`."""

    keeps: bool
    patience: int | None
    step: int = 0  # iterations after which the best was evaluated
    miou: float = 0.0  # percent
    since: int = 0  # evaluations after it
    last: int = 0  # iterations after which the last one was
    weights: dict[str, Tensor] | None = None

    def add(self, step: int, miou: float, weights: Mapping[str, Tensor]) -> None:
        """Take an evaluation in; of equal ones the first is the best."""
        if not self.step or miou > self.miou:
            self.step, self.miou, self.since = step, miou, 0
            if self.keeps:
                self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        else:
            self.since += 1
        self.last = step

    @property
    def exhausted(self) -> bool:
        """Whether as many evaluations as `train.patience` were no better."""
        return self.patience is not None and self.since >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        vars(self).update(state)

    def line(self, end: int, iterations: int) -> str:
        """Return in a line how it came out."""
        kept = f"kept the weights after {self.step}" if self.keeps else f"the weights after {end} are kept"
        early = f"; stopped early after {end} of {iterations} iterations" if end < iterations else ""
        return f"best on dev: {self.miou:.2f} mIoU after {self.step} iterations, {kept}{early}"


def selection(options: TrainConfig) -> Selection | None:
    """Return the selection of a training that is about to begin; None where none is asked for."""
    keeps = options.keep == "best"
    return Selection(keeps, options.patience) if keeps or options.patience is not None else None
