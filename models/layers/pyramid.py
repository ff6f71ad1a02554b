"""The UPerNet head up to its classifier: pyramid pooling on the deepest level, feature pyramid, fusion.

Shapes: B images, D channels of the head; four levels X1..X4 (B, C_i, H/4 .. H/32). Source: UPerNet (arXiv 1807.10221)
in mmsegmentation's reading. In training, pyramid pooling's 1×1 bin needs two images in a BatchNorm group.
"""

import torch
from torch import Tensor, nn

from models.layers.head import conv_norm_relu, resize

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """PPM: the map beside its averages over 1, 2, 3 and 6 bins.  # (B, C, h, w) -> (B, D, h, w)"""

    def __init__(self, inputs: int, channels: int, bins: tuple[int, ...] = BINS) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_norm_relu(inputs, channels, 1)) for side in bins
        )
        self.bottleneck = conv_norm_relu(inputs + len(bins) * channels, channels, 3)

    def forward(self, value: Tensor) -> Tensor:
        """The pooled map at its own resolution."""
        pooled = [resize(stage(value), value.shape[2:]) for stage in self.stages]
        joined: Tensor = self.bottleneck(torch.cat([value, *pooled], dim=1))
        return joined


class UPerHead(nn.Module):
    """C_wi, the "basic representations" of the paper: four levels fused at the finest.  # (B, D, H/4, W/4)"""

    def __init__(self, inputs: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.pooling = PyramidPooling(inputs[-1], channels)
        self.laterals = nn.ModuleList(conv_norm_relu(width, channels, 1) for width in inputs[:-1])
        self.smooth = nn.ModuleList(conv_norm_relu(channels, channels, 3) for _ in inputs[:-1])
        self.fusion = conv_norm_relu(len(inputs) * channels, channels, 3)

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Top-down sums of the laterals, smoothed, brought to the finest level and fused."""
        maps = [lateral(level) for lateral, level in zip(self.laterals, levels[:-1], strict=True)]
        maps.append(self.pooling(levels[-1]))
        for index in range(len(maps) - 1, 0, -1):
            maps[index - 1] = maps[index - 1] + resize(maps[index], maps[index - 1].shape[2:])
        outs = [smooth(value) for smooth, value in zip(self.smooth, maps[:-1], strict=True)] + maps[-1:]
        finest = outs[0].shape[2:]
        fused: Tensor = self.fusion(torch.cat([outs[0], *(resize(value, finest) for value in outs[1:])], dim=1))
        return fused
