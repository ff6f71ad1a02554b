"""Small parts every decoder is made of: convolution blocks, the classifier and the auxiliary FCN head.

Shapes: B images, K classes, C channels; h × w is any grid.
"""

import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1


def resize(value: Tensor, size: tuple[int, ...] | Tensor) -> Tensor:
    """Bilinear, half-pixel centres (align_corners False), as everywhere in UPerNet.  # (B, C, *size)"""
    return F.interpolate(value, size=tuple(int(side) for side in size), mode="bilinear", align_corners=False)


def conv(inputs: int, outputs: int, kernel: int, bias: bool = False) -> nn.Conv2d:
    """A "same" convolution, Kaiming normal over its outputs (the toolboxes' ConvModule)."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(conv(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Classifier(nn.Sequential):
    """Dropout of whole channels, then a 1×1 convolution to K logits.

    It starts as torch's layers do, as in the authors' toolbox; mmseg's N(0, 0.01) holds rare classes back for hundreds
    of steps, which only a schedule as long as the paper's forgives.
    """

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__(nn.Dropout2d(DROPOUT), nn.Conv2d(inputs, num_classes, 1))


class AuxiliaryHead(nn.Sequential):
    """The FCN head on the level at H/16, in training only.  # (B, C, h, w) -> (B, K, h, w)"""

    LEVEL = 2
    WEIGHT = 0.4

    def __init__(self, inputs: int, channels: int, num_classes: int) -> None:
        super().__init__(conv_norm_relu(inputs, channels, 3), Classifier(channels, num_classes))
