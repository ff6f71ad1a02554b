"""A frame's views (scales, flips), their sliding windows, and how probabilities are fused back to the frame.

Shapes: K classes, H × W the frame's own size, h × w a view's. Images are raw RGB 0..255, float32.

Probabilities, not logits, are summed: over windows and views of a member, then over members. A frame
smaller than a window is padded for the model and the padding is cut from the logits, so it is never counted.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.common.errors import UnfitError
from harness.config.sections import EvaluateConfig
from models.contract import VOID

VERSION = 2  # of views below the window: enlarged to it; 1: padded


class Box(NamedTuple):
    """A window's place in its view; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


class View(NamedTuple):
    """One look at a frame: its size after scaling, whether it is mirrored, and how many scales come to this size."""

    height: int
    width: int
    flip: bool
    weight: int = 1


class Tile(NamedTuple):
    """One window of one view, and the size it is padded to for the model."""

    view: int
    box: Box
    height: int
    width: int


class Geometry(NamedTuple):
    """The windows of a frame; equal geometries of a member share all their work."""

    window: int
    stride: int
    short_side: int | None  # None: the frame's own size
    scales: tuple[float, ...]
    flip: bool
    enlarge: bool = False  # views whose short side is below the window, to it
    batch: int = 1  # windows that the encoder sees at a time


class WindowSize(NamedTuple):
    """The windows that an encoder accepts: a fixed square, or any multiple of a number of pixels."""

    size: int | None
    multiple: int


def geometry(options: EvaluateConfig, scales: tuple[float, ...] = (1.0,), flip: bool = False) -> Geometry:
    """Return the geometry of an evaluation whose window is set; the default stride is two thirds of it (341 of 512)."""
    assert options.window is not None  # job.yaml has the default filled in
    stride = options.stride or round(options.window * 2 / 3)
    enlarge, batch = options.small_views == "enlarge", options.window_batch or 1
    return Geometry(options.window, stride, options.short_side, scales, flip, enlarge, batch)


def views(height: int, width: int, geometry: Geometry) -> list[View]:
    """Return every scale, and with `flip` each mirrored right after it; scales that come to one size are one view.

    Source of `geometry.enlarge`: unilm's `SETR_Resize`, whose short side is at least the window.
    """
    base = geometry.short_side or min(height, width)
    weights: Counter[View] = Counter()
    for scale in geometry.scales:
        short = max(base * scale, geometry.window) if geometry.enlarge else base * scale
        factor = short / min(height, width)
        size = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))  # mmcv's rounding
        weights.update(View(*size, mirrored) for mirrored in ((False, True) if geometry.flip else (False,)))
    return [view._replace(weight=weight) for view, weight in weights.items()]


def boxes(height: int, width: int, window: int, stride: int) -> list[Box]:
    """Return the windows that cover a view, row by row; the last of a row or column is moved back to end at the border.

    Source: mmsegmentation's `slide_inference`. A view smaller than the window has one box, the view itself.
    """
    rows = [
        (max(0, min(top + window, height) - window), min(top + window, height))
        for top in _starts(height, window, stride)
    ]
    columns = [
        (max(0, min(left + window, width) - window), min(left + window, width))
        for left in _starts(width, window, stride)
    ]
    return [Box(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def tiles(height: int, width: int, geometry: Geometry, accepts: WindowSize) -> list[Tile]:
    """Return all windows of all views of a frame. Raise UnfitError where the encoder cannot take the window."""
    window, stride = geometry.window, geometry.stride
    check_window(window, accepts)
    each = []
    for index, view in enumerate(views(height, width, geometry)):
        for box in boxes(view.height, view.width, window, stride):
            sides = (box.bottom - box.top, box.right - box.left)
            padded = (
                (accepts.size, accepts.size)
                if accepts.size
                else [math.ceil(side / accepts.multiple) * accepts.multiple for side in sides]
            )
            each.append(Tile(index, box, *padded))
    return each


def check_window(window: int, accepts: WindowSize) -> None:
    """Raise UnfitError where the encoder cannot take the window."""
    if accepts.size is not None and accepts.size != window:
        raise UnfitError(
            f"evaluate.window={window}: the encoder accepts only {accepts.size}; set evaluate.window={accepts.size}"
        )


def see(image: Tensor, view: View) -> Tensor:
    """Return the image (B, 3, H, W) as a view shows it: mirrored, then resized.  # (B, 3, h, w)"""
    image = image.flip(-1) if view.flip else image
    if image.shape[-2:] == (view.height, view.width):
        return image
    return F.interpolate(image, (view.height, view.width), mode="bilinear", align_corners=False)


def see_mask(mask: Tensor, view: View) -> Tensor:
    """Return a mask (H, W) as a view shows it, by nearest neighbour, which is not its own mirror image.  # (h, w)"""
    mask, size = mask.flip(-1) if view.flip else mask, (view.height, view.width)
    if mask.shape == size:
        return mask
    return F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].to(mask.dtype)


def cut(image: Tensor, tile: Tile, colour: Tensor) -> Tensor:
    """Return a tile of a view's image (B, 3, h, w), padded at the bottom and right by a colour (3, 1, 1)."""
    part = image[..., tile.box.top : tile.box.bottom, tile.box.left : tile.box.right]
    whole = colour.to(part).expand(*part.shape[:-2], tile.height, tile.width).clone()
    whole[..., : part.shape[-2], : part.shape[-1]] = part
    return whole


def cut_mask(mask: Tensor, tile: Tile, void: int = VOID) -> Tensor:
    """Return a tile of a view's mask (h, w), padded by void.  # (1, height, width)"""
    part = mask[tile.box.top : tile.box.bottom, tile.box.left : tile.box.right]
    whole = part.new_full((1, tile.height, tile.width), void)
    whole[0, : part.shape[-2], : part.shape[-1]] = part
    return whole


class Fusion:
    """Sums a frame's window probabilities in place, view by view; tiles come in the order of `tiles`."""

    def __init__(self, height: int, width: int, geometry: Geometry) -> None:
        self.size = (height, width)
        self.views = views(height, width, geometry)
        self._total: Tensor | None = None  # (K, H, W), over finished views
        self._sum: Tensor | None = None  # (K, h, w), over the windows of the view at hand
        self._count: Tensor | None = None  # (h, w); None where one window is the view
        self._view = 0

    def add(self, tile: Tile, logits: Tensor) -> None:
        """Add a tile's logits (1, K, ·, ·): resized to the tile, padding cut off, softmax."""
        if tile.view != self._view:
            self._finish_view()
            self._view = tile.view
        view, box = self.views[tile.view], tile.box
        plain = logits.float().contiguous()  # channels last, the softmax below would copy the large tensor instead
        whole = F.interpolate(plain, (tile.height, tile.width), mode="bilinear", align_corners=False)[0]
        share = whole[:, : box.bottom - box.top, : box.right - box.left].softmax(0)
        if box == (0, 0, view.height, view.width):  # the view's only window
            self._sum = share
            return
        if self._sum is None or self._count is None:
            self._sum = share.new_zeros(share.shape[0], view.height, view.width)
            self._count = share.new_zeros(view.height, view.width)
        part = (slice(box.top, box.bottom), slice(box.left, box.right))
        self._sum[:, *part] += share
        self._count[*part] += 1

    def probabilities(self) -> Tensor:
        """Return the mean over scales and flips, after the last tile; each pixel sums to 1.  # (K, H, W)"""
        self._finish_view()
        assert self._total is not None
        weight = sum(view.weight for view in self.views)
        return self._total if weight == 1 else self._total / weight

    def _finish_view(self) -> None:
        assert self._sum is not None
        mean = self._sum if self._count is None else self._sum.div_(self._count)
        if mean.shape[-2:] != self.size:
            mean = F.interpolate(mean[None], self.size, mode="bilinear", align_corners=False)[0]
        if self.views[self._view].flip:
            mean = mean.flip(-1)
        if (weight := self.views[self._view].weight) > 1:
            mean = mean * weight
        self._total = mean if self._total is None else self._total.add_(mean)
        self._sum = self._count = None


def _starts(length: int, window: int, stride: int) -> Iterator[int]:
    steps = max(length - window + stride - 1, 0) // stride + 1
    return (step * stride for step in range(steps))


def labels(probabilities: Tensor) -> Tensor:
    """Return the most probable class of every pixel, the first of equal ones; void never.  # (K, H, W) -> (H, W) int64

    As argmax, whose CPU kernel takes 25 times as long over K as these maxima, and max(dim=0) two to four times.
    """
    if not probabilities.is_cpu:
        return probabilities.max(dim=0).indices  # one kernel instead of four a class
    best = probabilities[0].clone()
    mask, larger = torch.zeros_like(best), torch.empty_like(best)  # floats, since a comparison into bool is slow
    for label, probability in enumerate(probabilities[1:], start=1):
        torch.gt(probability, best, out=larger)
        torch.maximum(mask, larger.mul_(label), out=mask)  # labels grow, so the last one that was larger stays
        torch.maximum(best, probability, out=best)
    return mask.long()
