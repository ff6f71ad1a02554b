"""UPerNet, the paper's baseline: each frame by itself, no memory and no mask of another frame.

Shapes: B images, K classes, H × W pixels. Source: arXiv 1807.10221; widths as in BEiT's ADE20K configuration.
"""

from dataclasses import dataclass

from torch import Tensor

from models import contract
from models.contract import Auxiliary, Features, Output, Target
from models.layers.head import AuxiliaryHead, Classifier
from models.layers.pyramid import UPerHead

VERSION = 2


@dataclass(frozen=True)
class Config:
    """Widths of the head and of its auxiliary head."""

    channels: int = 1024
    aux_channels: int = 256


class Decoder(contract.Decoder):
    """C_wi and a classifier; the prior is ignored."""

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        del deepest_channels  # only R, which UPerNet has not, is made from it
        self.head = UPerHead(channels, config.channels)
        self.classifier = Classifier(config.channels, num_classes)
        self.auxiliary = AuxiliaryHead(channels[AuxiliaryHead.LEVEL], config.aux_channels, num_classes)

    def encode(self, features: Features, past: tuple[Features, ...] = ()) -> Tensor:
        """The logits themselves: nothing depends on P.  # (B, K, H/4, W/4)"""
        del past
        return self.classifier(self.head(features.levels))

    def predict(self, cache: Tensor, prior: Tensor | None = None) -> Tensor:
        """The cached logits.  # (B, K, H/4, W/4)"""
        del prior
        return cache

    def forward(self, features: Features, past: tuple[Features, ...], prior: Tensor | None, target: Target) -> Output:
        """Logits and the auxiliary head's."""
        del past, prior, target
        auxiliary = self.auxiliary(features.levels[AuxiliaryHead.LEVEL])
        return Output(self.encode(features), (Auxiliary("auxiliary", auxiliary, AuxiliaryHead.WEIGHT),))
