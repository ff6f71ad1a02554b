"""Confusion matrices on the device. Shapes: K classes; labels and predictions of any equal shape."""

import torch
from torch import Tensor


def confusion(truth: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by truth (rows) and prediction (columns); truth outside 0..K-1 is void, left out.  # (K, K) int64

    The prediction is an argmax over K, so it lies in 0..K-1 everywhere.
    """
    rows = truth.int().clamp(-1, num_classes)  # void is the row before the first or after the last
    pairs = rows.add(1).mul_(num_classes).add_(prediction).flatten()  # bytes would overflow
    counts = torch.bincount(pairs, minlength=(num_classes + 2) * num_classes)
    return counts.view(num_classes + 2, num_classes)[1:-1]
