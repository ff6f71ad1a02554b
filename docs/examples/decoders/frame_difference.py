"""Frame difference: where the scene stands still, two frames say more than one.

Shapes: B images, K classes, D channels of the head, H × W pixels, h × w = H/8 × W/8.

A worked example of a decoder of one's own (docs/OWN_DECODER.md), not of the paper's. The deepest maps of frames N and
N-1 are projected by the same layer; a gate looks at how much each cell has changed and lets in as much of the frame
before as is still true. What comes out joins UPerNet's C_wi. On a video's first frame the frame before is the frame
itself, nothing has changed, and the decoder is UPerNet with one more branch.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from models import contract
from models.contract import Auxiliary, Features, Output, Target
from models.layers.head import AuxiliaryHead, Classifier, conv, conv_norm_relu, resize
from models.layers.pyramid import UPerHead

# Part of the identity of every job that uses this file: raise it with each change that moves a number.
VERSION = 1


# Read from the source without importing it, so every default is written out. `decoder.frame_difference.channels=64`
# on the command line, or a section of that name in a preset, changes one; a changed value is another job.
@dataclass(frozen=True)
class Config:
    """Widths of the head (D) and of its auxiliary head; `step`: how many frames back the other frame lies."""

    channels: int = field(default=32, metadata={"range": "[1, inf)"})
    aux_channels: int = field(default=16, metadata={"range": "[1, inf)"})
    step: int = field(default=1, metadata={"range": "[1, inf)"})


class Cache(NamedTuple):
    """All that does not depend on a prior mask P. Here that is everything, so the logits themselves are kept."""

    logits: Tensor  # (B, K, H/4, W/4)


class Decoder(contract.Decoder):
    """UPerNet with a gated look at the frame before; the prior is ignored."""

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        # The trainer cuts clips, and the evaluator keeps features of earlier frames, by what stands here.
        self.past = (-config.step,)
        # `prior` stays "none" and `past_grad` False, as the contract has them: no mask is read, and the frame before is
        # seen in eval mode without gradient, so it costs one forward pass and leaves no trace in batch statistics.
        self.head = UPerHead(channels, config.channels)
        self.project = conv_norm_relu(deepest_channels, config.channels, 3)
        self.gate = nn.Sequential(conv(config.channels, config.channels, 1, bias=True), nn.Sigmoid())
        self.fuse = conv_norm_relu(config.channels, config.channels, 3)
        self.classifier = Classifier(config.channels, num_classes)
        self.auxiliary = AuxiliaryHead(channels[AuxiliaryHead.LEVEL], config.aux_channels, num_classes)

    def encode(self, features: Features, past: tuple[Features, ...] = ()) -> Cache:
        """The logits; `past` holds one Features for each offset of `self.past`."""
        size = features.levels[1].shape[2:]  # h, w
        now = self.project(resize(features.deepest, size))  # (B, D, h, w)
        before = self.project(resize(past[0].deepest, size))  # (B, D, h, w)
        still = self.gate(-(now - before).abs())  # in 0..1, (B, D, h, w)
        steady = now + still * (before - now)
        within = self.head(features.levels)  # C_wi, (B, D, H/4, W/4)
        return Cache(self.classifier(self.fuse(within + resize(steady, within.shape[2:]))))

    def predict(self, cache: Cache, prior: Tensor | None = None) -> Tensor:
        """The cached logits, for any prior.  # (B, K, H/4, W/4)"""
        del prior
        return cache.logits

    def forward(self, features: Features, past: tuple[Features, ...], prior: Tensor | None, target: Target) -> Output:
        """One training step: logits, and the auxiliary head's with its weight in the loss."""
        del prior, target
        auxiliary = self.auxiliary(features.levels[AuxiliaryHead.LEVEL])
        return Output(self.encode(features, past).logits, (Auxiliary("auxiliary", auxiliary, AuxiliaryHead.WEIGHT),))
