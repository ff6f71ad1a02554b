"""Keys of training that the paper does not have: None, their default, is how the paper trains (docs/TRAINING.md)."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from harness.common.errors import UsageError

WHERE, COUNT = {"where": True}, {"range": "[1, inf)"}
ABOVE_0 = {"range": "(0, inf)"}
AS_NONE = (("keep", "last"), ("compile", False))  # values that say what None does


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training that default to None, and are then no part of an identity."""

    # weights to begin from: a file, the fingerprint of a finished training, or a model of MLflow's registry
    start: str | None = field(default=None, metadata=WHERE | {"content": True})
    # parameters left as they are: encoder | encoder:N, its first N blocks | a pattern of names, as decoder.memory*
    freeze: str | None = None
    lora: int | None = field(default=None, metadata=COUNT)  # rank of what is added to the encoder's frozen attention
    group_norm: int | None = field(default=None, metadata=COUNT)  # groups of the decoder's norms; None: batch norm
    compile: bool | None = None  # torch.compile of encoder and decoder, whose kernels round differently
    ema: float | None = field(default=None, metadata={"range": "(0, 1)"})  # decay of the average that is evaluated
    keep: Literal["last", "best"] | None = None  # None: last; best: of the evaluations on dev
    patience: int | None = field(default=None, metadata=COUNT)  # evaluations on dev without a better one; then it ends
    class_weights: Any = None  # of the cross entropies: K numbers, or "frequency" of the training masks
    ohem: float | None = field(default=None, metadata={"range": "(0, 1]"})  # probability below which a pixel is hard
    dice: float | None = field(default=None, metadata=ABOVE_0)  # weight of the term
    lovasz: float | None = field(default=None, metadata=ABOVE_0)  # weight of the term

    @property
    def selects(self) -> bool:
        """Whether the evaluations on the way decide on what is kept."""
        return self.keep == "best" or self.patience is not None

    @property
    def changed(self) -> list[str]:
        """Return the keys that are set: a training with one is not the paper's."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(TrainingOptions)}
        return [name for name, value in values.items() if value is not None and (name, value) not in AS_NONE]

    def check(self, on_dev: bool) -> None:
        """Raise UsageError for values that their types allow and nothing else does.

        `on_dev`: whether held-out training videos are evaluated on the way.
        """
        if self.selects and not on_dev:
            key = "train.keep=best" if self.keep == "best" else f"train.patience={self.patience}"
            raise UsageError(
                f"{key}: needs evaluations of held-out training videos, never val: set train.evaluate_every=N, "
                "data.hold_out=0.1 and train.evaluate_split=dev"
            )
        if self.class_weights not in (None, "frequency") and not _weights(self.class_weights):
            what = "must be frequency, or a list of positive numbers, one per class, such as [1,1,2.5]"
            raise UsageError(f"train.class_weights={self.class_weights}: {what}")


def _weights(value: object) -> bool:
    """Return whether a value is a list of positive finite numbers."""
    return (
        isinstance(value, tuple | list)
        and len(value) > 0
        and all(isinstance(number, int | float) and 0 < number < float("inf") for number in value)
        and not any(isinstance(number, bool) for number in value)
    )
