"""Training augmentation of a clip: mmseg's default, with one geometry for all frames and colours drawn per frame.

Shapes: T frames of a clip, H × W pixels as read, c the crop's side; 255 is void, or what `augment` is told.

Resize keeping the ratio × U(0.5, 2), crop, mirror, distort colours, pad (by the mean colour, labels by void). Every
draw comes from the generator handed in.

Differs from mmseg: the crop is cut before it is resized, its box rounded to whole source pixels (the scale moves by
less than one source pixel a crop), so the cost is the crop's and not the frame's; colours are distorted after the
crop, in floating point where OpenCV's HSV rounds hue to 2 degrees.

Source: mmseg's Resize, RandomCrop, RandomFlip, PhotoMetricDistortion and Pad, by the values of the authors' VSPW
configuration (scale range 0.5 to 2, cat_max_ratio 0.75).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask

VOID = 255
SCALES = (0.5, 2.0)
LONG_SIDE = 4  # times short_side, as (2048, 512)
MAX_SHARE = 0.75  # of the valid pixels of a crop that one class may have
TRIES = 10
MEAN_COLOUR = [124, 116, 104]
BRIGHTNESS = 32.0  # grey levels, ±
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18  # of 180, ±
PIXELS = 2**16  # distorted at a time, so that floats stay in a core's cache

Change = Callable[[Tensor], Tensor]  # (3, h, w) uint8 -> the same


class Box(NamedTuple):
    """A part of the source frame, and the size that it is resized to."""

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int


def augment(
    images: Tensor, labels: Tensor, crop: int, short_side: int, rng: np.random.Generator, void: int = VOID
) -> tuple[Tensor, Tensor]:
    """Return a clip's training sample; the current frame is the last one.

    images (T, 3, H, W) uint8 and labels (T, H, W) uint8 or int32 -> (T, 3, c, c) and (T, c, c) of the same types
    """
    height, width = resized(labels.shape[-2:], short_side, rng.uniform(*SCALES))
    box = choose_box(labels[-1], height, width, crop, rng, void)
    window = (box.top, box.left, box.height, box.width)
    size = [box.out_height, box.out_width]
    images = F.resized_crop(Image(images), *window, size, antialias=False)  # (T, 3, h, w)
    labels = F.resized_crop(Mask(labels), *window, size)  # (T, h, w)   nearest
    if rng.random() < 0.5:
        images, labels = F.horizontal_flip(images), F.horizontal_flip(labels)
    frames = torch.stack([distort(frame, rng) for frame in images.as_subclass(Tensor).contiguous()])
    rest = [0, 0, crop - box.out_width, crop - box.out_height]  # right and below, as mmseg's Pad
    return F.pad(frames, rest, fill=MEAN_COLOUR), F.pad(labels, rest, fill=void).as_subclass(Tensor)


def resized(size: tuple[int, ...], short_side: int, ratio: float) -> tuple[int, int]:
    """Return the height and width after mmcv's keep-ratio resize into (4 × short_side, short_side) × ratio."""
    short_limit, long_limit = int(short_side * ratio), int(LONG_SIDE * short_side * ratio)
    factor = min(long_limit / max(size), short_limit / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def choose_box(label: Tensor, height: int, width: int, crop: int, rng: np.random.Generator, void: int = VOID) -> Box:
    """Return a crop of the frame resized to height × width, in source pixels; up to ten draws until it is varied."""
    for _ in range(TRIES):
        top, box_height = source_span(label.shape[0], height, crop, rng)
        left, box_width = source_span(label.shape[1], width, crop, rng)
        if is_varied(label[top : top + box_height, left : left + box_width], void):
            break
    return Box(top, left, box_height, box_width, min(crop, height), min(crop, width))


def source_span(source: int, resized: int, crop: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and length, in source pixels, of a random crop along one side."""
    offset = int(rng.integers(max(resized - crop, 0) + 1))
    length = max(1, round(min(crop, resized) * source / resized))
    return min(round(offset * source / resized), source - length), length


def is_varied(label: Tensor, void: int = VOID) -> bool:
    """Return whether there are two classes and none has 75 % of the valid pixels (mmseg's cat_max_ratio)."""
    counts = torch.bincount(label.flatten(), minlength=void + 1)[:void]
    return bool((counts > 0).sum() > 1 and counts.max() < MAX_SHARE * counts.sum())


def distort(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Distort as mmseg's PhotoMetricDistortion: each change by a coin, contrast first or last.  # (3, h, w) uint8"""
    changes = draw_changes(rng)
    parts = []
    for part in torch.split(image.reshape(3, 1, -1), PIXELS, dim=2):
        for change in changes:
            part = change(part)
        parts.append(part)
    return torch.cat(parts, dim=2).view_as(image)


def draw_changes(rng: np.random.Generator) -> list[Change]:
    """Return the changes of one image's colours, in order."""
    changes: list[Change] = []
    if rng.random() < 0.5:
        changes.append(partial(brighten, levels=rng.uniform(-BRIGHTNESS, BRIGHTNESS)))
    contrast_last = rng.random() < 0.5
    contrast: list[Change] = []
    if rng.random() < 0.5:
        contrast.append(partial(multiply, factor=rng.uniform(*CONTRAST)))
    if not contrast_last:
        changes += contrast
    if rng.random() < 0.5:
        changes.append(partial(saturate, factor=rng.uniform(*SATURATION)))
    if rng.random() < 0.5:
        changes.append(partial(turn_hue, turn=int(rng.integers(-HUE, HUE)) / 180))
    return changes + contrast if contrast_last else changes


def brighten(image: Tensor, levels: float) -> Tensor:
    """Add grey levels.  # (3, h, w) uint8"""
    return to_bytes(image.float().add_(levels).clamp_(0, 255))


def multiply(image: Tensor, factor: float) -> Tensor:
    """Multiply grey levels, what mmseg calls contrast.  # (3, h, w) uint8"""
    return to_bytes(image.float().mul_(factor).clamp_(0, 255))


def saturate(image: Tensor, factor: float) -> Tensor:
    """Scale S of HSV, at most to 1; H and V stay.  # (3, h, w) uint8

    V is the largest channel and S = (V - min) / V, so every channel's distance to V is scaled: no HSV is needed.
    """
    value, chroma = brightest(image)
    most = value / chroma.clamp_min(1)  # the factor at which S is 1
    levels = image.float()  # (3, h, w)
    distance = torch.sub(value, levels, out=levels).mul_(most.clamp_max_(factor))
    return to_bytes(torch.sub(value + 0.5, distance, out=distance))


def turn_hue(image: Tensor, turn: float) -> Tensor:
    """Add `turn` of a full circle, a third at most, to H of HSV; S and V stay.  # (3, h, w) uint8

    What torchvision's adjust_hue does, at a fraction of its time: one hue map for all channels, made of bytes by
    products, where torch.where takes up to a hundred times as long.
    """
    value, chroma = brightest(image)
    red, green, blue = image
    reddest, greenest = (image[:2] == value.to(torch.uint8)).view(torch.uint8)
    greenest = greenest * (1 - reddest)
    bluest = 1 - reddest - greenest  # of the three, one is 1
    after = green * reddest + blue * greenest + red * bluest  # the channel after the brightest one on the circle
    before = blue * reddest + red * greenest + green * bluest
    hue = after.float().sub_(before.float()).div_(chroma.clamp_min(1))  # grey has no hue and no chroma to show it
    hue.add_((2 * greenest + 4 * bluest).float())  # sixths of a circle, in [-1, 5]
    share = hue + torch.tensor([5 + 6 * turn, 3 + 6 * turn, 1 + 6 * turn])[:, None, None]  # (3, h, w), in [-2, 12]
    other = 10 - share  # the same share, since the circle begins again at 6
    torch.minimum(share, other, out=share)
    torch.sub(4, share, out=other)
    torch.minimum(share, other, out=share).clamp_(0, 1)  # of the chroma that the channel lacks
    return to_bytes(torch.addcmul(value, chroma, share, value=-1, out=share).add_(0.5))


def brightest(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return V of HSV, the largest channel, and the chroma, V minus the smallest.  # (h, w) float32 each"""
    red, green, blue = image
    value = torch.maximum(torch.maximum(red, green), blue)
    return value.float(), (value - torch.minimum(torch.minimum(red, green), blue)).float()


def to_bytes(levels: Tensor) -> Tensor:
    """Return grey levels from 0 up to 256 without their fractions; straight to uint8 it takes three times as long."""
    return levels.to(torch.int16).to(torch.uint8)
