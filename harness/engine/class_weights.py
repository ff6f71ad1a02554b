"""Weights of classes in the cross entropies: given, or from how often the training masks have each class."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from harness.common.errors import UnfitError
from harness.config.sections import TrainConfig
from harness.data.contract import Dataset
from harness.data.stream import Batch
from harness.engine import distributed
from harness.engine.runtime import Rank
from models.contract import void

FREQUENCY = "frequency"
FRAMES = 8  # of a video that are counted at most, evenly spread
SMOOTHING = 1.02  # ENet's c: weights lie between 1 / ln(2.02) = 1.42 and 1 / ln(1.02) = 50.5


def given(options: TrainConfig, num_classes: int) -> Tensor | None:
    """Return the weights that `train.class_weights` lists, None where it lists none. Raise UnfitError for another K."""
    weights = options.class_weights
    if weights is None or weights == FREQUENCY:
        return None
    if len(weights) != num_classes:
        raise UnfitError(f"train.class_weights: has {len(weights)} numbers, the data has {num_classes} classes")
    return torch.tensor(weights, dtype=torch.float32)


def by_frequency(dataset: Dataset, rank: Rank, beat: Callable[[], object] = lambda: None) -> Tensor:
    """Return w = 1 / ln(1.02 + p) of each class, p its share of the labelled pixels in the training masks.  # (K,)

    Up to FRAMES frames of each video are read, shared out over ranks. Source: ENet (Paszke 2016). Raise UnfitError
    where no pixel is labelled.
    """
    pixels = np.zeros(len(dataset.classes), np.int64)
    for video in dataset.videos("train")[rank.rank :: rank.world]:
        for name in spread(frames_of(dataset, video)):
            beat()
            label = dataset.read("train", video, name).label
            if label is not None:
                pixels += np.bincount(label.ravel(), minlength=len(pixels))[: len(pixels)]
    counts = torch.tensor(distributed.agree(*pixels.tolist()), dtype=torch.float64)
    if not counts.sum():
        raise UnfitError("train.class_weights=frequency: no pixel of the training masks is labelled (docs/DATA.md)")
    return (1 / (SMOOTHING + counts / counts.sum()).log()).float()


def frames_of(dataset: Dataset, video: str) -> tuple[str, ...]:
    """Return a training video's frames that may have labels."""
    labelled: Callable[[str, str], tuple[str, ...]] | None = getattr(dataset, "labelled", None)
    return dataset.frames("train", video) if labelled is None else labelled("train", video)


def spread(names: Sequence[str]) -> list[str]:
    """Return at most FRAMES names, evenly from the whole list."""
    number = min(FRAMES, len(names))
    return [names[index * len(names) // number] for index in range(number)]


def total(batches: Sequence[Batch], weights: Tensor) -> float:
    """Return the sum of the weights of all labelled pixels in all ranks' batches; whole numbers are what ranks add."""
    pixels = torch.zeros(len(weights), dtype=torch.int64)
    for batch in batches:
        labels = batch.labels[:, -1]
        pixels += torch.bincount(labels[labels != void(len(weights))].long().flatten(), minlength=len(weights))
    return float(torch.tensor(distributed.agree(*pixels.tolist()), dtype=torch.float64) @ weights.cpu().double())


def line(weights: Tensor, classes: Sequence[str]) -> str:
    """Return in a line between which classes the weights lie."""
    low, high = int(weights.argmin()), int(weights.argmax())
    return (
        f"class weights by frequency: from {float(weights[low]):.2f} ({classes[low]}) to {float(weights[high]):.2f} "
        f"({classes[high]})"
    )
