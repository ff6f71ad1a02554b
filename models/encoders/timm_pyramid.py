"""Any hierarchical timm backbone: four of its own levels, at a quarter of the image to a thirty-second.

Shapes: B images, H × W pixels, multiples of 32.
"""

from dataclasses import dataclass, field
from typing import Any

import timm
from torch import Tensor, nn

from models.contract import Features
from models.encoders import _weights

VERSION = 2

REDUCTIONS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Config:
    """`model`: timm's name. `pretrained`: weights from the hub; `weights`: from a local file in timm's layout.

    `ema`: of a file with raw and averaged weights the averaged ones.
    """

    model: str = "tf_efficientnet_lite0"
    pretrained: bool = False
    weights: str | None = field(default=None, metadata={"where": True, "content": True})
    ema: bool | None = None


class Encoder(nn.Module):
    """The backbone's levels as they are, on images normalised as in pre-training; one learning rate for all layers.

    Raises ValueError where timm knows no such model, it has not the four levels, or `size` is no multiple of 32.
    """

    size: int | None = None  # of the only window that it takes, where the backbone is built for one
    multiple = 32
    num_layers = 0

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        if size % self.multiple:
            raise ValueError(f"timm_pyramid needs windows whose side is a multiple of {self.multiple}, not {size}")
        self.config = config
        self.mean, self.std = _weights.normalisation(config.model)
        self.options: dict[str, Any] = {"features_only": True}
        if timm.is_model(config.model) and timm.get_pretrained_cfg(config.model).fixed_input_size:
            self.size = self.options["img_size"] = size  # windowed attention is built for one size
        self.backbone: Any = _weights.untrained(config.model, **self.options)
        reductions = list(self.backbone.feature_info.reduction())
        if not set(REDUCTIONS) <= set(reductions):
            raise ValueError(f"{config.model} has levels at 1/{reductions}, timm_pyramid needs 1/{list(REDUCTIONS)}")
        # the last of those at a reduction is the one that has seen most layers
        self.picks = tuple(len(reductions) - 1 - reductions[::-1].index(reduction) for reduction in REDUCTIONS)
        widths = self.backbone.feature_info.channels()
        self.channels = tuple(widths[pick] for pick in self.picks)
        self.deepest_channels = self.channels[-1]

    def forward(self, images: Tensor) -> Features:
        """Normalised images (B, 3, H, W) -> four levels (B, C_i, H/4 .. H/32); the last is the deepest."""
        maps = self.backbone(images)
        if str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [value.permute(0, 3, 1, 2) for value in maps]
        levels = tuple(maps[pick] for pick in self.picks)
        return Features(levels, levels[-1])

    def layer_id(self, parameter_name: str) -> int:
        """0: the whole backbone is one layer."""
        del parameter_name
        return 0

    def load_pretrained(self) -> str:
        """Fill in the config's weights; nothing where it names none.

        Returns what was done to find them in a file. Raises FileNotFoundError where they cannot be had, ValueError
        where they do not fit.
        """
        note = ""
        if self.config.weights is not None:
            own = {_plain(name.removeprefix("model.")): name for name in self.backbone.state_dict()}
            state, note = _weights.pick(self.config.weights, own, self.config.ema, _plain)
            renamed = {own[_plain(name)]: value for name, value in state.items() if _plain(name) in own}
            _weights.fill(self.backbone, renamed, self.config.weights)
        elif self.config.pretrained:
            source = _weights.from_hub(self.config.model, **self.options)
            _weights.fill(self.backbone, source.state_dict(), f"{self.config.model} on the hub")
        return note


def _plain(name: str) -> str:
    """A tensor's name as timm's wrappers for features write it (`stages.0` becomes `stages_0`)."""
    return name.replace(".", "_")
