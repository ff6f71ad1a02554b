"""Dataset-level feature memory M and its update (Eqs 1-4).

Shapes: B images, K classes, C channels; h × w cells of the features R; H × W pixels of the labels (255 is void).

R is bilinearly upsampled to the labels' grid before Eq 2. `class_sums_dense` does just that; `class_sums` never
holds the H·W × C matrix: upsampling is linear, so similarities are taken between cells and upsampled, and the sums
over pixels are the adjoint of the upsampling applied to the pixels' weights, times R. Both are exact.

Differs from the paper: where all pixels of a class equal its memory, Eq 4 is 0/0; the class takes their mean. A class's
row stays unread until its first pixel is seen in training; that row is then set, not blended (`random_pixel`: one
seeded random pixel of it, the paper's initialisation; `first_seen_mean`: the mean, the authors' code).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.contract import Target
from models.layers.head import resize

NORM_EPS = 1e-8  # Eq 3: a shorter vector is 0, which resembles nothing (S = 0): its direction is a rounding error
MIN_MEAN_WEIGHT = {torch.float32: 1e-6, torch.float64: 1e-12}  # mean of 1 - S below which Eq 4 is 0/0

Init = Literal["random_pixel", "first_seen_mean"]


class ClassSums(NamedTuple):
    """The pixels of each class as Eq 4 needs them: sums, so ranks and micro-batches add before anything is divided."""

    pixels: Tensor  # (K,)     their number
    plain: Tensor  # (K, C)   sum of features
    weight: Tensor  # (K,)     sum of 1 - S
    weighted: Tensor  # (K, C)   sum of (1 - S) * features
    drawn: Tensor  # (K, C)   one random pixel of the first sample that holds the class; 0 where none was drawn

    def merge(self, later: "ClassSums") -> "ClassSums":
        """The sums of both parts; `self` comes first in the batch, so its drawn pixels win."""
        return ClassSums(
            self.pixels + later.pixels,
            self.plain + later.plain,
            self.weight + later.weight,
            self.weighted + later.weighted,
            torch.where(self.pixels[:, None] > 0, self.drawn, later.drawn),
        )


def representation(sums: ClassSums) -> Tensor:
    """R', one row a class; rows of unseen classes are meaningless.  # (K, C)   Eq 4"""
    degenerate = sums.weight <= MIN_MEAN_WEIGHT[sums.weight.dtype] * sums.pixels  # every pixel equals the memory
    weighted = sums.weighted / sums.weight.where(~degenerate, torch.ones_like(sums.weight))[:, None]
    return torch.where(degenerate[:, None], mean(sums), weighted)


def mean(sums: ClassSums) -> Tensor:
    """The plain mean of each class's pixels; 0 for unseen classes.  # (K, C)"""
    return sums.plain / sums.pixels.clamp_min(1)[:, None]


def update(memory: Tensor, initialised: Tensor, sums: ClassSums, momentum: float, init: Init) -> Tensor:
    """M_t: every class that was seen moves to its new representation, or is set at first sight.  # (K, C)   Eq 1"""
    first = sums.drawn if init == "random_pixel" else mean(sums)
    moved = (1 - momentum) * memory + momentum * representation(sums)
    moved = torch.where(initialised[:, None], moved, first)
    return torch.where(sums.pixels[:, None] > 0, moved, memory)


def class_sums_dense(features: Tensor, labels: Tensor, memory: Tensor, places: Tensor | None = None) -> ClassSums:
    """Eqs 2-4 as written, on the upsampled features: the reference for `class_sums`, H·W × C floats in memory.

    Arguments: `features` R (B, C, h, w), `labels` (B, H, W), `memory` M (K, C), `places` as `draw_places` gives them.
    """
    upsampled = resize(features, labels.shape[1:]).permute(0, 2, 3, 1).flatten(0, 2)  # (B·H·W, C)
    label, valid = _split(labels.flatten(), len(memory))
    length, long = upsampled.norm(dim=1), memory[label].norm(dim=1).clamp_min(NORM_EPS)
    similarity = (upsampled * memory[label]).sum(1) / (length.clamp_min(NORM_EPS) * long)  # Eq 3
    similarity = similarity.where(length > NORM_EPS, 0)  # S
    weight = (1 - similarity).clamp(0, 2) * valid  # a cosine may round beyond 1
    member = torch.nn.functional.one_hot(label, len(memory)).to(memory.dtype) * valid[:, None]  # (B·H·W, K), Eq 2
    pixel = torch.zeros_like(memory)
    if places is not None:
        pixel = torch.where(places[:, None] >= 0, upsampled[places.clamp_min(0)], pixel)
    weights = member * weight[:, None]
    return ClassSums(member.sum(0), member.T @ upsampled, weights.sum(0), weights.T @ upsampled, pixel)


def class_sums(features: Tensor, labels: Tensor, memory: Tensor, places: Tensor | None = None) -> ClassSums:
    """The same sums from the h × w cells and the K' classes present; arguments as for `class_sums_dense`.

    A length from products of cells would lose digits where cells of opposite signs cancel; R, after its ReLU, has none.
    """
    (batch, _, height, width), classes = features.shape, len(memory)
    cells = features.flatten(2)  # (B, C, h·w)
    label, valid = _split(labels.flatten(1), classes)  # (B, H·W)
    pixels = torch.bincount(torch.where(valid, label, classes).flatten(), minlength=classes + 1)[:classes]
    present = pixels > 0
    present[0] = True  # void stands as class 0, with weight 0
    row = (present.cumsum(0) - 1)[label]
    sides = _sides((height, width), labels.shape[1:], features)
    corners = _corners(sides, width)
    rows = memory[present]
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(NORM_EPS)
    dots = (unit @ cells).flatten(1)  # (B, K'·h·w)
    dot = sum(share * dots.gather(1, row * height * width + cell) for cell, share in corners)  # R_up · M, unit M
    length = _squared_norms(features, sides).flatten(1).clamp_min(0).sqrt()  # its square may cancel to less than 0
    similarity = (dot / length.clamp_min(NORM_EPS)).where(length > NORM_EPS, 0)  # S, Eq 3
    weight = (1 - similarity).clamp(0, 2) * valid
    sums = torch.zeros(2, batch * len(rows) * height * width, dtype=memory.dtype, device=memory.device)
    offset = (torch.arange(batch, device=labels.device)[:, None] * len(rows) + row) * height * width
    for cell, share in corners:  # the adjoint of the upsampling, one corner at a time
        index = (offset + cell).flatten()
        sums[0].index_add_(0, index, (share * valid).flatten())
        sums[1].index_add_(0, index, (share * weight).flatten())
    shares = sums.view(2, batch, len(rows), -1).transpose(0, 1).flatten(1, 2)  # (B, 2·K', h·w)
    plain, weighted = _spread(torch.unflatten((shares @ cells.mT).sum(0), 0, (2, -1)), present)
    weights = _spread(sums[1].view(batch, len(rows), -1).sum((0, 2))[None], present)[0]
    drawn = torch.zeros_like(memory) if places is None else _pixels(cells, corners, places, labels[0].numel())
    return ClassSums(pixels.to(memory.dtype), plain, weights, weighted, drawn)


def draw_places(labels: Tensor, keys: Tensor, wanted: Tensor) -> Tensor:
    """One pixel of each wanted class, drawn evenly from those of the first sample that holds it.  # (K,) int64

    A place indexes the flattened (B, H, W) labels, -1 where the class is absent or not wanted. A sample's draws depend
    on its key and labels only, so neither ranks nor micro-batches change them.
    """
    classes = len(wanted)
    places = torch.full((classes,), -1, dtype=torch.int64, device=labels.device)
    for sample, key in enumerate(keys.tolist()):
        label, valid = _split(labels[sample].flatten(), classes)
        pixels = (valid & (wanted & (places < 0))[label]).nonzero()[:, 0]  # in raster order
        if not len(pixels):
            continue
        label = label[pixels]
        count = torch.bincount(label, minlength=classes)
        share = torch.rand(classes, dtype=torch.float64, generator=torch.Generator().manual_seed(key))
        rank = (share.to(labels.device) * count).long().clamp_max((count - 1).clamp_min(0))  # which of its pixels
        order = label.argsort(stable=True)  # pixels by class, in raster order within a class
        chosen = pixels[order[(count.cumsum(0) - count + rank).clamp_max(len(pixels) - 1)]]
        places = torch.where(count > 0, sample * labels[0].numel() + chosen, places)
    return places


def _split(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Labels with void as class 0, and which are not void."""
    valid = (labels >= 0) & (labels < classes)
    return labels.where(valid, torch.zeros_like(labels)).long(), valid


def _spread(rows: Tensor, present: Tensor) -> Tensor:
    """Rows of the classes present among those of all classes, which are 0.  # (n, K', ...) -> (n, K, ...)"""
    whole = rows.new_zeros(len(rows), len(present), *rows.shape[2:])
    whole[:, present] = rows
    return whole


Corner = tuple[Tensor, Tensor]  # per pixel: a cell's index (n,) int64, and its share in the pixel (n,)
Sides = tuple[tuple[Corner, Corner], tuple[Corner, Corner]]  # rows and columns: the nearer cell before, and after


def _sides(cells: tuple[int, int], pixels: torch.Size, like: Tensor) -> Sides:
    """The two cells that each row (column) of pixels is interpolated from."""
    sides = []
    for cell_side, pixel_side in zip(cells, pixels, strict=True):
        position = torch.arange(pixel_side, dtype=torch.float64, device=like.device)
        position = ((position + 0.5) * cell_side / pixel_side - 0.5).clamp_min(0)
        low = position.long().clamp_max(cell_side - 1)
        share = (position - low).to(like.dtype)
        sides.append(((low, 1 - share), ((low + 1).clamp_max(cell_side - 1), share)))
    return sides[0], sides[1]


def _corners(sides: Sides, width: int) -> tuple[Corner, ...]:
    """The four cells each pixel is interpolated from, by their index in h · w.  # n = H·W"""
    rows, columns = sides
    return tuple(
        ((row[:, None] * width + column).flatten(), (row_share[:, None] * column_share).flatten())
        for row, row_share in rows
        for column, column_share in columns
    )


def _squared_norms(features: Tensor, sides: Sides) -> Tensor:
    """Squared length of each upsampled pixel, from five products of neighbouring cells.  # (B, H, W)

    The square of a pixel's four shares is, along each axis, a share of the cells themselves and one of the pairs that
    begin at them; at the last row and column a cell's neighbour is itself, as upsampling has it.
    """
    same = features.square().sum(1)  # (B, h, w)
    right = torch.cat([_products(features[..., :-1], features[..., 1:]), same[..., -1:]], dim=2)
    below = torch.cat([_products(features[:, :, :-1], features[:, :, 1:]), same[:, -1:]], dim=1)
    falling = _products(features[:, :, :-1, :-1], features[:, :, 1:, 1:])
    rising = _products(features[:, :, :-1, 1:], features[:, :, 1:, :-1])
    across = torch.cat([(falling + rising) / 2, below[:, :-1, -1:]], dim=2)
    across = torch.cat([across, right[:, -1:]], dim=1)
    (row, rows), (column, columns) = (_squares(*side) for side in zip(sides, features.shape[2:], strict=True))
    return row @ (same @ column.T + right @ columns.T) + rows @ (below @ column.T + across @ columns.T)


def _products(first: Tensor, second: Tensor) -> Tensor:
    """Dot products over channels.  # (B, C, h, w) -> (B, h, w)"""
    return (first * second).sum(1)


def _squares(side: tuple[Corner, Corner], cells: int) -> tuple[Tensor, Tensor]:
    """The squared shares of an axis: of each cell with itself, and of each with the next.  # two of (pixels, cells)"""
    (low, low_share), (high, high_share) = side
    lows, highs = (torch.nn.functional.one_hot(index, cells).to(low_share.dtype) for index in (low, high))
    same = lows * low_share.square()[:, None] + highs * high_share.square()[:, None]
    return same, lows * (2 * low_share * high_share)[:, None]


def _pixels(cells: Tensor, corners: tuple[Corner, ...], places: Tensor, pixels: int) -> Tensor:
    """The upsampled features at `places`, 0 where a place is -1.  # (K, C)"""
    sample, pixel = places.clamp_min(0) // pixels, places.clamp_min(0) % pixels
    drawn = [share[pixel][:, None] * cells[sample, :, cell[pixel]] for cell, share in corners]
    value = torch.stack(drawn).sum(0)
    return torch.where(places[:, None] >= 0, value, torch.zeros_like(value))


class FeatureMemory(nn.Module):
    """Owns M, float32 whatever the precision of training, and which of its rows were ever set."""

    rows: Tensor  # M, (K, C)
    initialised: Tensor  # (K,) bool

    def __init__(self, num_classes: int, channels: int, init: Init) -> None:
        super().__init__()
        self.init = init
        self.register_buffer("rows", torch.zeros(num_classes, channels))
        self.register_buffer("initialised", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def sums(self, features: Tensor, target: Target) -> ClassSums:
        """Class sums of R (B, C, h, w) against M_{t-1}, in the precision of M."""
        with torch.autocast(features.device.type, enabled=False):
            places = None
            if self.init == "random_pixel" and not bool(self.initialised.all()):
                places = draw_places(target.labels, target.keys, ~self.initialised)
            return class_sums(features.detach().to(self.rows.dtype), target.labels, self.rows, places)

    def permuted(self) -> Tensor:
        """M with its rows that were set exchanged so that every class has another's, the same ones each time."""
        places = self.initialised.nonzero()[:, 0]
        places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).to(places.device)]
        return self.rows.index_copy(0, places, self.rows[places.roll(1)])

    @torch.no_grad()
    def update(self, sums: ClassSums, momentum: float) -> None:
        """Move M once, in place, by the sums of the whole batch (Eq 1)."""
        self.rows.copy_(update(self.rows, self.initialised, sums, momentum, self.init))
        self.initialised.logical_or_(sums.pixels > 0)
