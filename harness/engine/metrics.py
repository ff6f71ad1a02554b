"""Confusion matrices on the device. Shapes: K classes; labels and predictions of any equal shape."""

import torch
from torch import Tensor


def confusion(truth: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by truth (rows) and prediction (columns); truth outside 0..K-1 is void, left out.  # (K, K) int64

    The prediction is an argmax over K, so it lies in 0..K-1 everywhere.
    """
    rows = torch.where((truth >= 0) & (truth < num_classes), truth, num_classes)  # void is row K
    pairs = torch.add(prediction.long(), rows, alpha=num_classes).flatten()  # bytes would overflow
    counts = torch.bincount(pairs, minlength=(num_classes + 1) * num_classes)
    return counts[: num_classes**2].view(num_classes, num_classes)
