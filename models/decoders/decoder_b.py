"""Decoder B: Decoder A with temporal memory attention in R's place, reading the memory with the frame's own mask.

Shapes: B images, C channels of R and M, T earlier frames, H × W pixels, h × w = H/8 × W/8. Source: the paper, §3 and
Figure 2; the attention is TMANet's (arXiv 2102.08643) without its classifier.

Differs from the paper: "the predicted segmentation mask of current frame" is the coarse head's, on the attention's
output. Earlier frames are seen without gradient unless `memory_grad`.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from models.contract import Features
from models.decoders._memory_head import WITHOUT_P, MemoryDecoder
from models.layers.head import resize
from models.layers.temporal_attention import TemporalAttention

VERSION = 2


@dataclass(frozen=True)
class Config:
    """`frames`: T. `gt_warmup`: share of training in which P is the truth. Others: the papers' symbols."""

    channels: int = field(default=1024, metadata={"range": "[1, inf)"})
    aux_channels: int = field(default=256, metadata={"range": "[1, inf)"})
    memory_channels: int = field(default=512, metadata={"range": "[1, inf)"})  # C
    momentum: float = field(default=0.9, metadata={"range": "[0, 1]"})  # m of Eq 1 at the start
    schedule: Literal["poly", "fixed"] = "poly"
    gt_warmup: float = field(default=0.1, metadata={"range": "[0, 1]"})
    init: Literal["random_pixel", "first_seen_mean"] = "random_pixel"
    proj: Literal["plain", "ref"] = "plain"  # g_q, g_k, g_v, g_o
    frames: int = field(default=2, metadata={"range": "[1, inf)"})  # T
    tma_key: int = field(default=64, metadata={"range": "[1, inf)"})  # Ck
    tma_value: int = field(default=256, metadata={"range": "[1, inf)"})  # Cv
    tma_scale: bool = False  # scores divided by sqrt(Ck)
    memory_grad: bool = False  # gradients through the earlier frames
    # what is taken away: MemoryDecoder, Decoder
    control: Literal["no_context", "no_memory", "random_memory", "current_past"] | None = None


class Decoder(MemoryDecoder):
    """R is what the current frame reads from its predecessors.

    The control `current_past`, in training or evaluation, has the current frame in their place.
    """

    controls = (*MemoryDecoder.controls, "current_past")

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__(channels, num_classes, config)
        self.prior = "none" if self.control in WITHOUT_P else "own"
        self.past = tuple(range(-config.frames, 0))
        self.past_grad = config.memory_grad
        self.attention = TemporalAttention(
            deepest_channels,
            config.memory_channels,
            frames=config.frames,
            keys=config.tma_key,
            values=config.tma_value,
            scaled=config.tma_scale,
        )

    def remember(self, features: Features) -> Features:
        """The deepest map: the attention reads no other."""
        return features._replace(levels=())

    def _source(self, features: Features, past: tuple[Features, ...]) -> Tensor:
        """TMA's output on the deepest maps at H/8.  # (B, C, h, w)"""
        size = features.levels[1].shape[2:]
        if self.control == "current_past":
            past = (features._replace(deepest=features.deepest.detach()),) * len(past)
        earlier = tuple(resize(frame.deepest, size) for frame in past)
        source: Tensor = self.attention(resize(features.deepest, size), earlier)
        return source
