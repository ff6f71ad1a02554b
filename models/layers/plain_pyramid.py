"""Four levels at H/4 to H/32 from the maps of a plain ViT, which all live at one resolution.

Shapes: B images, C channels, h × w patches (H/16 × W/16 for patches of 16). Sources: unilm's
`beit/semantic_segmentation` for `tap_pyramid`; detectron2's `SimpleFeaturePyramid` (ViTDet, arXiv 2203.16527) for
`simple_pyramid`.
"""

from timm.layers import LayerNorm2d
from torch import nn

SIMPLE_CHANNELS = 256  # ViTDet's


def tap_pyramid(width: int) -> nn.ModuleList:
    """Return BEiT's scales, one for each of four taps: ×4, ×2, ×1, ×½.  # (B, C, h, w) -> (B, C, ·, ·)"""
    return nn.ModuleList(
        [
            nn.Sequential(_double(width, width), nn.BatchNorm2d(width), nn.GELU(), _double(width, width)),
            _double(width, width),
            nn.Identity(),
            nn.MaxPool2d(2),
        ]
    )


def simple_pyramid(width: int) -> nn.ModuleList:
    """Return ViTDet's scales, all of the last map: ×4, ×2, ×1, ×½.  # (B, C, h, w) -> (B, 256, ·, ·)"""
    half, quarter = width // 2, width // 4
    return nn.ModuleList(
        [
            nn.Sequential(
                _double(width, half), LayerNorm2d(half), nn.GELU(), _double(half, quarter), *_project(quarter)
            ),
            nn.Sequential(_double(width, half), *_project(half)),
            nn.Sequential(*_project(width)),
            nn.Sequential(nn.MaxPool2d(2), *_project(width)),
        ]
    )


def _double(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


def _project(inputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, SIMPLE_CHANNELS, 1, bias=False),
        LayerNorm2d(SIMPLE_CHANNELS),
        nn.Conv2d(SIMPLE_CHANNELS, SIMPLE_CHANNELS, 3, padding=1, bias=False),
        LayerNorm2d(SIMPLE_CHANNELS),
    )
