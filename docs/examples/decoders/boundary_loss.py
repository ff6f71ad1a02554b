"""UPerNet with a loss of its own: the cross entropy of pixels at a boundary between two classes, once more.

Shapes: B images, K classes, H × W pixels.

A worked example of a further loss (docs/OWN_DECODER.md), not of the paper's.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from models.contract import VOID, Features, Loss, Output, Target
from models.decoders import upernet
from models.layers.head import resize

VERSION = 1


@dataclass(frozen=True)
class Config:
    """Widths as UPerNet's; `weight` of the further loss."""

    channels: int = field(default=32, metadata={"range": "[1, inf)"})
    aux_channels: int = field(default=16, metadata={"range": "[1, inf)"})
    weight: float = field(default=0.5, metadata={"range": "(0, inf)"})


class Decoder(upernet.Decoder):
    """UPerNet; training looks at boundaries twice."""

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__(channels, deepest_channels, num_classes, config)  # type: ignore[arg-type]
        self.weight = config.weight

    def forward(self, features: Features, past: tuple[Features, ...], prior: Tensor | None, target: Target) -> Output:
        """UPerNet's output, and the loss as a sum over this rank's boundary pixels with their number.

        No mean: the trainer divides the sum by the number on all ranks. Without a boundary both are 0.
        """
        output = super().forward(features, past, prior, target)
        labels = target.labels.where(boundary(target.labels), VOID)
        logits = resize(output.logits.float(), labels.shape[-2:])  # (B, K, H, W)
        total = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
        return output._replace(further=(Loss("boundary", total, (labels != VOID).sum(), self.weight),))


def boundary(labels: Tensor) -> Tensor:
    """Return the labelled pixels whose right or lower neighbour is of another class.  # (B, H, W) bool"""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    edge[:, :, :-1] |= (labels[:, :, 1:] != labels[:, :, :-1]) & (labels[:, :, 1:] != VOID)
    edge[:, :-1] |= (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] != VOID)
    return edge & (labels != VOID)
