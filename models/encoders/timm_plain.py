"""Any plain ViT of timm (DINOv2, DINOv3, EVA-02, SigLIP, CLIP, MAE, DeiT …) with a feature pyramid on its blocks.

Shapes: B images of H × W pixels, multiples of the patch (14 or 16); C channels; all blocks live at h × w patches.
Sources: timm's `vision_transformer.py` and `eva.py`; the pyramids: models/layers/plain_pyramid.py.

Position embeddings are resized to the training's window when weights are loaded, and for other windows at each pass.
BEiT, whose windows are fixed, is `beit`.
"""

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from timm.layers import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.contract import Features
from models.encoders import _weights
from models.layers.head import resize
from models.layers.plain_pyramid import SIMPLE_CHANNELS, simple_pyramid, tap_pyramid

VERSION = 1

STRIDES = (4, 8, 16, 32)  # of the four levels


@dataclass(frozen=True)
class Config:
    """`model`: timm's name, its tag says which weights of the hub. `weights`: a local file, timm's or its source's.

    `taps`: four blocks counted from 0; None: the last of each quarter. `pyramid`: BEiT's on the taps, or ViTDet's on
    the last of them alone. `final_norm`: the backbone's last norm over every tap, as DINOv2 is evaluated. `ema`: of a
    file with raw and averaged weights the averaged ones.
    """

    model: str = "vit_tiny_patch16_224"
    drop_path: float = field(default=0.0, metadata={"range": "[0, 1)"})
    taps: tuple[int, ...] | None = field(default=None, metadata={"range": "[0, inf)"})
    pyramid: Literal["taps", "simple"] = "taps"
    final_norm: bool = False
    pretrained: bool = False  # weights from the hub
    weights: str | None = field(default=None, metadata={"where": True, "content": True})
    ema: bool | None = None
    # blocks are computed again in the backward pass: the same bits, a part of the memory, a third more time
    checkpoint: bool = field(default=False, metadata={"where": True})


class Encoder(nn.Module):
    """Four maps at the patch's resolution, brought to H/4, H/8, H/16 and H/32; the deepest is the last tap itself.

    Raises ValueError where timm has no such plain ViT, its patch is neither 14 nor 16, the taps are not its blocks, or
    `size` is no multiple of the patch.
    """

    size: int | None = None
    multiple: int = 16  # of a model: its patch

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.config = config
        self.options = {"num_classes": 0, "img_size": size, "dynamic_img_size": True}
        self.backbone = _backbone(config.model, drop_path_rate=config.drop_path, **self.options)
        self.mean, self.std = _weights.normalisation(config.model)
        self.multiple = self.backbone.patch_embed.patch_size[0]
        if size % self.multiple or size < STRIDES[-1]:
            takes = f"a multiple of {self.multiple} and at least {STRIDES[-1]}"
            raise ValueError(f"{config.model} accepts windows whose side is {takes}, not {size}")
        if config.final_norm and isinstance(self.backbone.norm, nn.Identity):
            raise ValueError(f"{config.model} has no final norm: set encoder.timm_plain.final_norm=false")
        self.taps = _taps(config, len(self.backbone.blocks))
        self.backbone.prune_intermediate_layers(list(self.taps), prune_norm=not config.final_norm, prune_head=True)
        self.backbone.set_grad_checkpointing(config.checkpoint)
        self.num_layers = len(self.backbone.blocks)
        self.deepest_channels = width = self.backbone.embed_dim
        simple = config.pyramid == "simple"
        self.pyramid = simple_pyramid(width) if simple else tap_pyramid(width)
        self.channels = (SIMPLE_CHANNELS if simple else width,) * len(STRIDES)

    def forward(self, images: Tensor) -> Features:
        """Normalised images (B, 3, H, W) -> (B, C, H/4 .. H/32) and the last tap (B, C, h, w)."""
        taps = self.backbone.forward_intermediates(
            images, indices=list(self.taps), norm=self.config.final_norm, intermediates_only=True
        )
        maps = taps if self.config.pyramid == "taps" else taps[-1:] * len(STRIDES)
        levels = [scale(value) for scale, value in zip(self.pyramid, maps, strict=True)]
        if self.multiple != 16:  # ×4 of patches of 14 is H/3.5
            sides = [(images.shape[2] // stride, images.shape[3] // stride) for stride in STRIDES]
            levels = [resize(level, side) for level, side in zip(levels, sides, strict=True)]
        return Features(tuple(levels), taps[-1])

    def layer_id(self, parameter_name: str) -> int:
        """0 for what comes before the blocks, i + 1 for block i, num_layers + 1 for the final norm and the pyramid."""
        if parameter_name.startswith("backbone.blocks."):
            return int(parameter_name.split(".")[2]) + 1
        stem = parameter_name.startswith("backbone.") and not parameter_name.startswith("backbone.norm.")
        return 0 if stem else self.num_layers + 1

    def load_pretrained(self) -> str:
        """Fill in the config's weights, their position embeddings resized; nothing where it names none.

        Returns what was done to find them in a file. Raises FileNotFoundError where they cannot be had, ValueError
        where they do not fit.
        """
        note = ""
        if self.config.weights is not None:
            state, note = self._read(self.config.weights)
            _weights.fill(self.backbone, self._fit(state, self.config.weights), self.config.weights)
        elif self.config.pretrained:
            state = _weights.from_hub(self.config.model, **self.options).state_dict()
            _weights.fill(self.backbone, state, f"{self.config.model} on the hub")
        return note

    def _read(self, path: str) -> _weights.Picked:
        """The model in a file; the whole file where most of its names are not timm's, since `_fit` knows its source."""
        own = self.backbone.state_dict().keys()
        picked = _weights.pick(path, own, self.config.ema)
        return picked if 2 * len(own & picked.tensors.keys()) >= len(own) else _weights.Picked(_weights.read(path), "")

    def _fit(self, state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
        """`state` with names, patches and position embeddings brought to this model's by timm's own conversion."""
        if any(family in self.config.model for family in ("flexi", "radio")):  # timm resizes theirs in another way
            raise ValueError(f"{self.config.model} is loaded from the hub only: set encoder.timm_plain.pretrained=true")
        convert: Any = sys.modules[type(self.backbone).__module__]
        try:
            fitted: dict[str, Tensor] = convert.checkpoint_filter_fn(state, self.backbone)
        except Exception as error:  # of another model's tensors: whatever operation meets them first
            reason = _weights.reason(error).removesuffix("; download it again")
            raise ValueError(f"{origin} does not fit: {reason}; give weights of this model") from error
        return fitted


def _backbone(model: str, **options: object) -> Any:
    """Return a timm model with random weights. Raises ValueError for one that is no plain ViT of patches 14 or 16."""
    try:
        backbone = _weights.untrained(model, **options)
    except TypeError as error:  # an option that only plain ViTs have
        raise ValueError(f"{model} is not a plain ViT; use encoder.name=beit or timm_pyramid for others") from error
    if not isinstance(backbone, VisionTransformer | Eva) or not isinstance(backbone.patch_embed, PatchEmbed):
        raise ValueError(f"{model} is not a plain ViT; use encoder.name=beit or timm_pyramid for others")
    if backbone.patch_embed.patch_size not in ((14, 14), (16, 16)):
        raise ValueError(f"{model} has patches of {backbone.patch_embed.patch_size[0]}; timm_plain supports 14 and 16")
    return backbone


def _taps(config: Config, depth: int) -> tuple[int, ...]:
    """Four blocks, ascending. Raises ValueError where the model has not these."""
    quarters = tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
    taps = config.taps if config.taps is not None else quarters
    if len(taps) != len(STRIDES) or sorted(set(taps)) != list(taps) or not 0 <= taps[0] <= taps[-1] < depth:
        wanted = f"four of its blocks 0 to {depth - 1}, ascending"
        raise ValueError(f"{config.model}: encoder.timm_plain.taps must be {wanted}, not {list(taps)}")
    return taps
