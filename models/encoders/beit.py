"""BEiT (arXiv 2106.08254) with a feature pyramid on four of its blocks: the paper's encoder.

Shapes: B images of S × S pixels, C channels; all blocks live at S/16. Source: timm's `beit.py` for the backbone,
unilm's `beit/semantic_segmentation` for the taps, the pyramid and the resizing of position tables.

`tiny` is a sibling of four blocks without pre-trained weights, for demos and tests.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from timm.models.beit import Attention, Beit
from torch import Tensor, nn

from models.contract import Features
from models.encoders import _weights
from models.layers.plain_pyramid import tap_pyramid

VERSION = 1

PATCH = 16
TAPS = {4: (0, 1, 2, 3), 12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # blocks tapped, by depth
TABLE = "attn.relative_position_bias_table"
EXTRA = 3  # rows of a table that concern the class token


@dataclass(frozen=True)
class Config:
    """`model`: timm's name with its tag, or "tiny". `weights`: a local file, timm's or unilm's layout."""

    model: str = "tiny"
    drop_path: float = field(default=0.0, metadata={"range": "[0, 1)"})
    pretrained: bool = False  # weights from the hub
    weights: str | None = field(default=None, metadata={"where": True, "content": True})
    ema: bool | None = None  # of a file with raw and averaged weights the averaged ones
    # blocks are computed again in the backward pass: the same bits, a part of the memory, a third more time
    checkpoint: bool = field(default=False, metadata={"where": True})


class Encoder(nn.Module):
    """Four taps at S/16, brought to S/4, S/8, S/16 and S/32; the deepest is the last tap itself.

    Raises ValueError where timm knows no such BEiT or `size` (S) is no multiple of 32.
    """

    multiple = 32

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        if size % self.multiple:
            raise ValueError(f"beit needs windows whose side is a multiple of {self.multiple}, not {size}")
        self.config, self.size = config, size
        self.backbone = _backbone(config, size)
        self.num_layers = len(self.backbone.blocks)
        if self.num_layers not in TAPS:
            raise ValueError(f"{config.model} has {self.num_layers} blocks; beit taps models of {sorted(TAPS)}")
        self.backbone.prune_intermediate_layers(list(TAPS[self.num_layers]), prune_norm=True, prune_head=True)
        self.backbone.set_grad_checkpointing(config.checkpoint)
        for block in self.backbone.blocks:
            block.attn.__class__ = KeptBias
        width = self.backbone.embed_dim
        self.channels, self.deepest_channels = (width,) * 4, width
        self.pyramid = tap_pyramid(width)

    def forward(self, images: Tensor) -> Features:
        """Normalised images (B, 3, S, S) -> (B, C, S/4 .. S/32) and the last tap (B, C, S/16, S/16)."""
        if images.shape[2:] != (self.size, self.size):
            raise ValueError(f"this beit accepts {self.size} × {self.size} pixels, not {tuple(images.shape[2:])}")
        taps = self.backbone.forward_intermediates(images, indices=list(TAPS[self.num_layers]), intermediates_only=True)
        return Features(tuple(scale(tap) for scale, tap in zip(self.pyramid, taps, strict=True)), taps[-1])

    def layer_id(self, parameter_name: str) -> int:
        """0 for the patch embedding and the class token, i + 1 for block i, num_layers + 1 for the pyramid."""
        if parameter_name.startswith("backbone.blocks."):
            return int(parameter_name.split(".")[2]) + 1
        return 0 if parameter_name.startswith("backbone.") else self.num_layers + 1

    def load_pretrained(self) -> str:
        """Fill in the config's weights, their position tables resized to S; nothing where it names none.

        Returns what was done to find them in a file. Raises FileNotFoundError where they cannot be had, ValueError
        where they do not fit.
        """
        note = ""
        if self.config.weights is not None:
            origin, own = self.config.weights, self.backbone.state_dict()
            state, note = _weights.pick(origin, own, self.config.ema)
        elif not self.config.pretrained:
            return note
        elif self.config.model == "tiny":
            raise ValueError("beit's tiny model has no pre-trained weights: set pretrained to false")
        else:
            origin = f"{self.config.model} on the hub"
            state = _weights.from_hub(self.config.model, num_classes=0).state_dict()
        _weights.fill(self.backbone, self._fit(state, origin), origin)
        return note

    def _fit(self, state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
        """`state` with its position tables brought to this model's names and size."""
        shared = state.get("rel_pos_bias.relative_position_bias_table")
        fitted = dict(state)
        for index, block in enumerate(self.backbone.blocks):
            name = f"blocks.{index}.{TABLE}"
            table = state.get(name, shared)  # self-supervised checkpoints share one table
            if table is not None and block.attn.relative_position_bias_table is not None:
                rows, heads = block.attn.relative_position_bias_table.shape
                if table.ndim != 2 or table.shape[1] != heads:
                    raise ValueError(f"{origin} does not fit: {name} has the shape {tuple(table.shape)}")
                fitted[name] = resize_table(table, rows)
        return fitted


class KeptBias(Attention):  # type: ignore[misc]  # timm is untyped
    """timm's attention, whose position bias is gathered once for all frames of an evaluation, not for each anew.

    Only under `torch.inference_mode`: training would hold it (67 MB a block for BEiT-L at 512) for a single step. It is
    gathered again where the table was written to or moved.
    """

    _kept: tuple[tuple[int, int], Tensor] | None = None

    def _get_rel_pos_bias(self) -> Tensor:
        """(1, heads, N + 1, N + 1) for N patches."""
        if not torch.is_inference_mode_enabled() or self.relative_position_bias_table.is_inference():
            self._kept = None
            bias: Tensor = super()._get_rel_pos_bias()
            return bias
        table = self.relative_position_bias_table
        state = table._version, table.data_ptr()
        if self._kept is None or self._kept[0] != state:
            self._kept = state, super()._get_rel_pos_bias()
        return self._kept[1]


def _backbone(config: Config, size: int) -> Beit:
    if config.model == "tiny":
        return Beit(
            img_size=size,
            patch_size=PATCH,
            num_classes=0,
            embed_dim=64,
            depth=4,
            num_heads=4,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
            init_values=0.1,
            drop_path_rate=config.drop_path,
        )
    if not config.model.startswith("beit"):
        raise ValueError(f"{config.model} is not a BEiT model")
    return _weights.untrained(config.model, num_classes=0, img_size=size, drop_path_rate=config.drop_path)


def resize_table(table: Tensor, rows: int) -> Tensor:
    """A relative-position table for another window: a cubic spline on geometrically spaced offsets, as unilm does.

    Linear interpolation degrades the 224 -> 512 transfer (unilm issue 376).  # (s² + 3, heads) -> (rows, heads)
    """
    source, target = round((len(table) - EXTRA) ** 0.5), round((rows - EXTRA) ** 0.5)
    if source**2 + EXTRA != len(table):
        raise ValueError(f"a position table of {len(table)} rows does not belong to a square window")
    if source == target:
        return table
    from scipy.interpolate import RectBivariateSpline  # a third of a second to import

    offsets, degree = _geometric_offsets(source, target), min(3, source - 1)
    wanted = np.arange(target) - target // 2
    grids = table[:-EXTRA].double().cpu().numpy().reshape(source, source, -1)
    heads = [
        RectBivariateSpline(offsets, offsets, grids[..., head], kx=degree, ky=degree)(wanted, wanted)
        for head in range(grids.shape[-1])
    ]
    resized = torch.from_numpy(np.stack(heads, axis=-1).reshape(target**2, -1)).to(table)
    return torch.cat([resized, table[-EXTRA:]])


def _geometric_offsets(source: int, target: int) -> np.ndarray:
    """Return the known offsets among the wanted ones: 1, 1 + q, 1 + q + q², ... reaching the wanted's end."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (source // 2)) / (1 - ratio) > target // 2:
            high = ratio
        else:
            low = ratio
    half = np.cumsum(ratio ** np.arange(source // 2))
    return np.concatenate([-half[::-1], [0.0], half])
