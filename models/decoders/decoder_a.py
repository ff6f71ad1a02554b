"""Decoder A: UPerNet augmented by the feature memory, which is read with the mask of the previous frame.

Shapes: B images, C channels of R and M, H × W pixels, h × w = H/8 × W/8. Source: the paper, §3 and Figure 1.

Differs from the paper: R is a 3×3 convolution of the backbone's deepest map at H/8 (the paper says "the multilevel
representations" and H/8; the authors' MCIBI code takes the deepest). A coarse head on R gives P where there is no
previous mask.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from models.contract import Features
from models.decoders._memory_head import WITHOUT_P, MemoryDecoder
from models.layers.head import conv_norm_relu, resize

VERSION = 2


@dataclass(frozen=True)
class Config:
    """`prior`: whose mask P is. `gt_warmup`: share of training in which P is the truth. Others: paper's symbols."""

    channels: int = field(default=1024, metadata={"range": "[1, inf)"})
    aux_channels: int = field(default=256, metadata={"range": "[1, inf)"})
    memory_channels: int = field(default=512, metadata={"range": "[1, inf)"})  # C
    momentum: float = field(default=0.9, metadata={"range": "[0, 1]"})  # m of Eq 1 at the start
    schedule: Literal["poly", "fixed"] = "poly"
    gt_warmup: float = field(default=0.1, metadata={"range": "[0, 1]"})
    init: Literal["random_pixel", "first_seen_mean"] = "random_pixel"
    proj: Literal["plain", "ref"] = "plain"  # g_q, g_k, g_v, g_o
    prior: Literal["previous", "current_coarse"] = "previous"
    first_frame: Literal["coarse", "uniform", "self2"] = "coarse"
    control: Literal["no_context", "no_memory", "random_memory"] | None = None  # what is taken away: MemoryDecoder


class Decoder(MemoryDecoder):
    """R from the current frame alone."""

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__(channels, num_classes, config)
        self.prior = "none" if self.control in WITHOUT_P else "previous" if config.prior == "previous" else "own"
        self.first_frame = config.first_frame
        self.source = conv_norm_relu(deepest_channels, config.memory_channels, 3)

    def _source(self, features: Features, past: tuple[Features, ...]) -> Tensor:
        """The deepest map at H/8, convolved.  # (B, C, h, w)"""
        del past
        source: Tensor = self.source(resize(features.deepest, features.levels[1].shape[2:]))
        return source
