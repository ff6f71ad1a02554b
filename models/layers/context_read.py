"""Reading the memory M with a mask P (Eqs 5-6): R attends to the rows of M that P selects.

Shapes: B images, K classes, C channels of R and M, d = C/2; N = h·w positions of R.

P gives each position of a frame a row of M (C'_bi), so of N keys at most K differ and attention over the positions
equals attention over the rows with log n_c added to the scores, n_c being how often P names class c. `forward` does
that, O(N·K); `dense` is Eqs 5-6 as written, O(N²), the reference. They agree in values, gradients and batch statistics.

Differs from the paper: void positions of P and rows never set take no part; where nothing is left the context is 0.
`ref` projections are the authors' code (1×1 convolution, BatchNorm, ReLU; two of them for g_q and g_k).
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract import AllSum, identity
from models.layers.head import conv_norm_relu

Projection = Literal["plain", "ref"]


def to_grid(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """P (B, H, W) brought to R's grid, nearest.  # (B, h, w) int64"""
    if mask.shape[1:] == torch.Size(size):
        return mask.long()
    return F.interpolate(mask[:, None].float(), size=tuple(size), mode="nearest")[:, 0].long()


def class_counts(mask: Tensor, initialised: Tensor) -> Tensor:
    """n_c of each image, 0 for rows never set; void is not counted.  # (B, h, w) -> (B, K) of the default dtype"""
    classes = len(initialised)
    valid = (mask >= 0) & (mask < classes)
    index = torch.where(valid, mask, classes).flatten(1).long()
    counts = torch.zeros(len(mask), classes + 1, device=mask.device)
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    return counts[:, :classes] * initialised


class CountedNorm(nn.Module):
    """BatchNorm over rows that stand for `counts` equal rows each; over all ranks through `all_sum`.

    Equals BatchNorm over the repeated rows, running statistics included (variance with n / (n - 1)). Without any row
    the running statistics stay.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.all_sum: AllSum = identity
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Rows (n, C), counts (n,) -> (n, C)."""
        if self.training:
            mean, var = self._statistics(rows, counts.to(rows.dtype))
        else:
            mean, var = self.running_mean, self.running_var
        return (rows - mean) * (var + self.eps).rsqrt() * self.weight + self.bias

    def _statistics(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        first = self.all_sum(torch.cat([counts.sum()[None], counts @ rows]))  # (1 + C,)
        total = first[0].detach()
        size = total.clamp_min(1)
        mean = first[1:] / size
        var = self.all_sum(counts @ (rows - mean).square()) / size  # centred: no cancellation in float32
        with torch.no_grad():
            step = self.momentum * (total > 0)
            self.running_mean.lerp_(mean, step.to(mean.dtype))
            self.running_var.lerp_(var * (total / (total - 1).clamp_min(1)), step.to(var.dtype))
        return mean, var


class RowProjection(nn.Module):
    """g_k or g_v: 1×1 convolutions on rows of M, which have no neighbours.  # (n, C) -> (n, d)"""

    def __init__(self, inputs: int, outputs: int, projection: Projection, depth: int) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * (depth if projection == "ref" else 1)]
        plain = projection == "plain"
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=plain) for a, b in pairwise(widths))
        self.norms = nn.ModuleList() if plain else nn.ModuleList(CountedNorm(width) for width in widths[1:])

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Project; `counts` (n,) weigh the rows in batch statistics."""
        if not self.norms:
            (linear,) = self.linears
            projected: Tensor = linear(rows)
            return projected
        for linear, norm in zip(self.linears, self.norms, strict=True):
            rows = torch.relu(norm(linear(rows), counts))
        return rows


class ContextRead(nn.Module):
    """C_bi from R, M and P; `query` is apart because it does not depend on P."""

    def __init__(self, channels: int, projection: Projection) -> None:
        super().__init__()
        inner = channels // 2
        self.scale = inner**-0.5
        self.keys = RowProjection(channels, inner, projection, depth=2)  # g_k
        self.values = RowProjection(channels, inner, projection, depth=1)  # g_v
        self.query: nn.Module  # g_q
        self.out: nn.Module  # g_o
        if projection == "plain":
            self.query, self.out = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        else:
            self.query = nn.Sequential(conv_norm_relu(channels, inner, 1), conv_norm_relu(inner, inner, 1))
            self.out = conv_norm_relu(inner, channels, 1)

    def forward(self, query: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
        """C_bi by class counts: g_q(R) (B, d, h, w), M (K, C), n_c (B, K) -> (B, C, h, w)."""
        with torch.autocast(query.device.type, enabled=False):
            counts = counts.to(rows.dtype)
            weights = counts.sum(0)
            keys, values = self.keys(rows, weights), self.values(rows, weights)  # (K, d)
            scores = query.flatten(2).mT.to(rows.dtype) @ keys.T * self.scale  # (B, N, K)
            bias = counts.log()[:, None]  # log n_c; -inf leaves a class out
            context = _attend(scores, bias, counts > 0, values)
        return self._finish(context, query)

    def dense(self, query: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """C_bi as Eqs 5-6 are written: P (B, h, w) on R's grid, void where a row must not be read -> (B, C, h, w)."""
        with torch.autocast(query.device.type, enabled=False):
            index = mask.flatten(1)  # (B, N)
            valid = (index >= 0) & (index < len(rows))
            gathered = rows[index.where(valid, torch.zeros_like(index))]  # C'_bi, (B, N, C)
            weights = valid.flatten().to(rows.dtype)
            keys = torch.unflatten(self.keys(gathered.flatten(0, 1), weights), 0, index.shape)  # (B, N, d)
            values = torch.unflatten(self.values(gathered.flatten(0, 1), weights), 0, index.shape)
            scores = query.flatten(2).mT.to(rows.dtype) @ keys.mT * self.scale  # (B, N, N)
            bias = torch.zeros_like(weights).view(index.shape).masked_fill(~valid, -torch.inf)[:, None]
            context = _attend(scores, bias, valid, values)
        return self._finish(context, query)

    def _finish(self, context: Tensor, query: Tensor) -> Tensor:
        """g_o on the context laid out as R.  # (B, N, d) -> (B, C, h, w), Eq 6"""
        beyond: Tensor = self.out(torch.unflatten(context.mT, 2, query.shape[2:]))
        return beyond


def _attend(scores: Tensor, bias: Tensor, valid: Tensor, values: Tensor) -> Tensor:
    """softmax(scores + bias) · values, and 0 for images without a valid key.  # (B, N, d), Eq 5"""
    some = valid.any(1)[:, None, None]  # (B, 1, 1)
    bias = torch.where(some, bias, torch.zeros_like(bias))  # softmax over -inf alone has no gradient
    return (scores + bias).softmax(-1) @ values * some
