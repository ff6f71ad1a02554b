"""UPerNet, the paper's baseline: each frame by itself, no memory and no mask of another frame.

Shapes: B images, K classes, H × W pixels. Source: arXiv 1807.10221; widths as in BEiT's ADE20K configuration.
"""

import json
from bisect import bisect_left
from dataclasses import dataclass, field
from importlib import import_module

import torch
from torch import Tensor

from models import contract
from models.contract import Auxiliary, Features, Output, Target
from models.layers.head import AuxiliaryHead, Classifier
from models.layers.pyramid import UPerHead

VERSION = 2


@dataclass(frozen=True)
class Config:
    """Widths of the head and of its auxiliary head.

    `as_large_as`: another decoder of this folder as JSON, {"name": …, "config": {…}}; `channels` is raised until this
    one has at least its number of parameters.
    """

    channels: int = field(default=1024, metadata={"range": "[1, inf)"})
    aux_channels: int = field(default=256, metadata={"range": "[1, inf)"})
    as_large_as: str | None = None


class Decoder(contract.Decoder):
    """C_wi and a classifier; the prior is ignored."""

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        width = config.channels  # D
        if getattr(config, "as_large_as", None) is not None:  # the Config of a decoder derived from this may lack it
            width = wide(channels, deepest_channels, num_classes, config)
        self.head = UPerHead(channels, width)
        self.classifier = Classifier(width, num_classes)
        self.auxiliary = AuxiliaryHead(channels[AuxiliaryHead.LEVEL], config.aux_channels, num_classes)

    def encode(self, features: Features, past: tuple[Features, ...] = ()) -> Tensor:
        """The logits themselves: nothing depends on P.  # (B, K, H/4, W/4)"""
        del past
        logits: Tensor = self.classifier(self.head(features.levels))
        return logits

    def predict(self, cache: Tensor, prior: Tensor | None = None) -> Tensor:
        """The cached logits.  # (B, K, H/4, W/4)"""
        del prior
        return cache

    def forward(self, features: Features, past: tuple[Features, ...], prior: Tensor | None, target: Target) -> Output:
        """Logits and the auxiliary head's."""
        del past, prior, target
        auxiliary = self.auxiliary(features.levels[AuxiliaryHead.LEVEL])
        return Output(self.encode(features), (Auxiliary("auxiliary", auxiliary, AuxiliaryHead.WEIGHT),))


def wide(channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> int:
    """The smallest D, at least `config.channels`, with which UPerNet has as many parameters as `config.as_large_as`."""

    def parameters(decoder: type[contract.Decoder], options: object) -> int:
        with torch.device("meta"):
            module = decoder(channels, deepest_channels, num_classes, options)
        return sum(parameter.numel() for parameter in module.parameters())

    other = json.loads(config.as_large_as or "")
    module = import_module(f"models.decoders.{other['name']}")
    target = parameters(module.Decoder, module.Config(**other["config"]))
    widths = range(config.channels, 16 * config.channels)
    return widths[
        bisect_left(widths, target, key=lambda width: parameters(Decoder, Config(width, config.aux_channels)))
    ]
