"""Temporal memory attention (TMA, arXiv 2102.08643): the current frame reads its T predecessors.

Shapes: B images, C channels in, N = h·w positions, T earlier frames oldest first, Ck and Cv channels of keys and
values.

Each predecessor has projections of its own (they are not shared), and the scores are not scaled by default: both as in
the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.head import conv_norm_relu


def read(query: Tensor, keys: Tensor, values: Tensor, scaled: bool) -> Tensor:
    """softmax(Q Kᵀ) V over all positions of all frames.  # (B, N, Ck), (B, T·N, Ck), (B, T·N, Cv) -> (B, N, Cv)"""
    q, k, v = query[:, None], keys[:, None], values[:, None]  # one head: fused kernels take no fewer dimensions
    return F.scaled_dot_product_attention(q, k, v, scale=None if scaled else 1.0).squeeze(1)


def _project(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_norm_relu(inputs, outputs, 1), conv_norm_relu(outputs, outputs, 3))


class TemporalAttention(nn.Module):
    """The current map joined with what it reads from the earlier ones."""

    def __init__(self, inputs: int, outputs: int, frames: int, keys: int, values: int, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled
        self.query_key, self.query_value = _project(inputs, keys), _project(inputs, values)
        self.memory_keys = nn.ModuleList(_project(inputs, keys) for _ in range(frames))
        self.memory_values = nn.ModuleList(_project(inputs, values) for _ in range(frames))
        self.out = conv_norm_relu(2 * values, outputs, 3)

    def forward(self, current: Tensor, past: tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, h, w) of the current and the T earlier frames -> (B, outputs, h, w)."""
        value = self.query_value(current)
        query = self.query_key(current)
        keys = [project(frame) for project, frame in zip(self.memory_keys, past, strict=True)]
        values = [project(frame) for project, frame in zip(self.memory_values, past, strict=True)]
        with torch.autocast(current.device.type, enabled=False):
            rows = read(_rows([query]), _rows(keys), _rows(values), self.scaled)  # (B, N, Cv)
        memory = torch.unflatten(rows.mT, 2, current.shape[2:]).to(value.dtype)  # (B, Cv, h, w)
        joined: Tensor = self.out(torch.cat([value, memory], dim=1))
        return joined


def _rows(maps: list[Tensor]) -> Tensor:
    """Positions of all maps one after the other, at least float32.  # T × (B, C, h, w) -> (B, T·N, C)"""
    rows = torch.cat([value.flatten(2) for value in maps], dim=2).mT
    return rows if rows.dtype == torch.float64 else rows.float()
