"""Losses beside the cross entropy, as a sum over images and their number, so that parts of a batch add.

Shapes: B images, K classes, H × W pixels. Logits are (B, K, H, W) at the labels' size, labels (B, H, W).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.contract import VOID

KEPT = 16  # of an image's labelled pixels one in so many is hard at least, as BiSeNet has it


def class_scores(logits: Tensor, labels: Tensor, void: int = VOID) -> Tensor:
    """Return the probability of each pixel's own class, 0 where it has none.  # (B, H, W)"""
    known = labels != void
    own = logits.float().softmax(1).gather(1, labels.where(known, labels.new_zeros(())).unsqueeze(1)).squeeze(1)
    return own * known


@torch.no_grad()
def hard_pixels(logits: Tensor, labels: Tensor, threshold: float, void: int = VOID) -> Tensor:
    """Return the pixels that online hard example mining keeps: probability of their class below `threshold`, and of
    each image the least probable sixteenth at least.  # (B, H, W) bool

    Sources: mmseg's OHEMPixelSampler (which counts its minimum over a GPU's images), BiSeNet's OhemCELoss.
    """
    known = labels != void
    own = class_scores(logits, labels, void)
    ascending = own.masked_fill(~known, torch.inf).flatten(1).sort(1).values  # (B, H * W)
    least = (known.flatten(1).sum(1, keepdim=True) + KEPT - 1) // KEPT  # (B, 1)
    limit = ascending.gather(1, (least - 1).clamp_min(0))[:, :, None]  # (B, 1, 1)
    return known & ((own < threshold) | (own <= limit))


def dice(logits: Tensor, labels: Tensor, void: int = VOID) -> tuple[Tensor, Tensor]:
    """Return the sum over images of 1 - the mean over an image's classes of 2 Σ p y / (Σ p + Σ y), and their number.

    Sums go over the image's labelled pixels; classes that it lacks do not count. Source: V-Net's coefficient
    (Milletari 2016), with Σ p in the denominator for Σ p².
    """
    known = (labels != void).unsqueeze(1)
    classes = logits.shape[1]
    probabilities = logits.float().softmax(1) * known  # (B, K, H, W)
    index = labels.unsqueeze(1).where(known, labels.new_zeros(()))
    own = probabilities.gather(1, index).flatten(1) * known.flatten(1)  # (B, H * W)
    empty = own.new_zeros(len(labels), classes)
    common = empty.scatter_add(1, index.flatten(1), own)  # (B, K)
    pixels = empty.scatter_add(1, index.flatten(1), known.flatten(1).to(own.dtype))
    present = pixels > 0
    coefficient = 2 * common / (probabilities.sum((2, 3)) + pixels).where(present, empty.new_ones(()))
    labelled = present.any(1)
    mean = (coefficient * present).sum(1) / present.sum(1).clamp_min(1)
    return ((1 - mean) * labelled).sum(), labelled.sum()


def lovasz(logits: Tensor, labels: Tensor, void: int = VOID) -> tuple[Tensor, Tensor]:
    """Return the sum over images of the Lovász-softmax of their classes, and the number of images.

    Source: Berman 2018, per image, over the classes that it has.
    """
    total, count = logits.new_zeros((), dtype=torch.float32), 0
    for scores, target in zip(logits.float().softmax(1), labels, strict=True):
        valid = target != void
        wanted = target[valid]
        if not len(wanted):
            continue
        of_classes = []
        for label in wanted.unique().tolist():
            foreground = (wanted == label).float()
            errors, order = (foreground - scores[label][valid]).abs().sort(descending=True)
            of_classes.append(errors @ jaccard_steps(foreground[order]))
        total, count = total + torch.stack(of_classes).mean(), count + 1
    return total, torch.tensor(count, device=logits.device)


def jaccard_steps(foreground: Tensor) -> Tensor:
    """Return by how much the Jaccard loss grows with each further pixel that is wrong, in this order.  # (N,)"""
    intersection = foreground.sum() - foreground.cumsum(0)
    union = foreground.sum() + (1 - foreground).cumsum(0)
    loss = 1 - intersection / union
    return torch.cat([loss[:1], loss[1:] - loss[:-1]])


def cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None, void: int = VOID) -> Tensor:
    """Return the sum of the cross entropies of labelled pixels, each times its class's weight."""
    return F.cross_entropy(logits, labels, weights, ignore_index=void, reduction="sum")


def weight_sum(labels: Tensor, weights: Tensor | None, void: int = VOID) -> Tensor:
    """Return the sum of the weights of labelled pixels: their number without weights."""
    known = labels != void
    if weights is None:
        return known.sum()
    return (weights.double()[labels.where(known, labels.new_zeros(()))] * known).sum()
