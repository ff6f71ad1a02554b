"""The contract of encoder, decoder and trainer; no decoder is ever asked for its type.

Shapes: B images, K classes, H × W pixels of the image, C channels. Labels and masks are class indices; void is
`void(K)`: 255, or 65535 with more than 255 classes. Take whatever is not in 0..K-1 for it.

A file in models/encoders exposes VERSION, a frozen dataclass Config with literal defaults, and a class Encoder.
A file in models/decoders exposes VERSION, Config and a class Decoder (a subclass of the one below).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

VOID = 255  # of up to 255 classes


def void(num_classes: int) -> int:
    """The label of pixels without a class."""
    return VOID if num_classes <= VOID else 65535


class Features(NamedTuple):
    """An encoder's output for a batch of images."""

    levels: tuple[Tensor, ...]  # X1..X4, (B, C_i, H/4 | H/8 | H/16 | H/32, ...)
    deepest: Tensor  # the backbone's last map before any pyramid, (B, C, h, w): source of R


class Target(NamedTuple):
    """The labels of a batch of images in training."""

    labels: Tensor  # (B, H, W) int64, void(K) is void
    keys: Tensor  # (B,) int64, one seed a sample: the only source of a decoder's own random choices


class Auxiliary(NamedTuple):
    """A further prediction with its own cross entropy."""

    name: str
    logits: Tensor  # (B, K, h, w)
    weight: float


@dataclass(frozen=True)
class Loss:
    """A further loss of a decoder's own: a sum over this rank's part of the micro-batch, and what it is a sum over.

    The trainer divides the sum by the count over all ranks, so that N ranks equal one; a sum must therefore be additive
    over images. A decoder gives the same losses in every step, with a count of 0 where there is nothing.
    """

    name: str  # of its curve: "train/" and this
    sum: Tensor  # ()
    count: Tensor | float  # pixels, images, or the sum of their weights
    weight: float = 1.0  # in the whole loss


class Sums(Protocol):
    """Class sums of a part of the batch: a NamedTuple of tensors, merged in the batch's order."""

    def merge(self, later: Self) -> Self:
        """The sums of both parts; `self` comes first in the batch."""
        ...


class Output(NamedTuple):
    """A decoder's output in training."""

    logits: Tensor  # (B, K, h, w); resized bilinearly to the labels by the trainer
    auxiliary: tuple[Auxiliary, ...] = ()
    sums: Any = None  # Sums | None; detached, float32
    further: tuple[Loss, ...] = ()


class Decoder(nn.Module):
    """The decoder contract; a decoder without memory and past overrides encode, predict and forward only.

    Arguments: `channels` of the four levels, `deepest_channels`, `num_classes` K, and the decoder's own `config`.
    """

    past: tuple[int, ...] = ()  # offsets of the earlier frames whose features `encode` reads, oldest first
    past_grad: bool = False  # whether training needs gradients through those frames
    prior: Literal["none", "previous", "own"] = "none"
    # where P comes from if none is given: not used | the mask of frame N-1, handed in by trainer and evaluator | itself
    gt_warmup: float = 0.0  # share of training in which the truth of P's frame is given as the prior
    controls: tuple[str, ...] = ()  # values that an evaluation may give `control`
    control: str | None = None  # the part of the decoder that is taken away, for an ablation; None: nothing

    def encode(self, features: Features, past: tuple[Features, ...] = ()) -> Any:
        """All that does not depend on P: the cache from which any number of stages is predicted."""
        raise NotImplementedError

    def remember(self, features: Features) -> Features:
        """Return the part that `encode` of later frames reads; less than all of it saves memory in evaluation."""
        return features

    def predict(self, cache: Any, prior: Tensor | None = None) -> Tensor:
        """Logits (B, K, h, w) for a prior mask P (B, H, W), or for the decoder's own rule if None; repeatable."""
        raise NotImplementedError

    def prior_key(self, cache: Any, prior: Tensor | None = None) -> Tensor | None:
        """All of P that `predict` looks at: equal keys of one cache mean equal logits, so that stages may stop early.

        None where it is not known; then every stage is computed. A decoder that reads no mask has one key.
        """
        del cache, prior
        return torch.zeros(0) if self.prior == "none" else None

    def forward(self, features: Features, past: tuple[Features, ...], prior: Tensor | None, target: Target) -> Output:
        """One training step's outputs; the memory is read, not written."""
        raise NotImplementedError

    def momentum_at(self, progress: float) -> float:
        """m of Eq. 1 at `progress` in [0, 1] of training."""
        del progress
        return 0.0

    @torch.no_grad()
    def update(self, sums: Any, momentum: float) -> None:
        """Move the memory once by the sums of the whole batch (Eq. 1)."""


def identity(value: Tensor) -> Tensor:
    """The sum over ranks where there is one rank."""
    return value


AllSum = Callable[[Tensor], Tensor]  # differentiable sum over ranks; modules that need one hold it as `all_sum`
