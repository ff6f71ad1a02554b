"""Random features and labels of a batch, and a decoder's training step on them.

Shapes: B images, K classes, H × W pixels of the image.
"""

import torch
from torch import Tensor

from models import contract
from models.contract import VOID, Features, Target

CHANNELS, DEEPEST, CLASSES = (8, 10, 12, 6), 9, 5
SHAPE = (4, 64, 64, 16)  # B, H, W, stride where a check asks for none in particular


def features(batch: int = 4, height: int = 64, width: int = 64, stride: int = 16, seed: int = 0) -> Features:
    """Random features of `batch` images; the deepest map is at 1/stride."""
    draw = torch.Generator().manual_seed(seed)
    levels = tuple(
        torch.randn(batch, channels, height // reduction, width // reduction, generator=draw)
        for channels, reduction in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    )
    return Features(levels, torch.randn(batch, DEEPEST, height // stride, width // stride, generator=draw))


def earlier(decoder: contract.Decoder, *shape: int) -> tuple[Features, ...]:
    """Random features of every earlier frame that the decoder reads."""
    batch, height, width, stride = shape or SHAPE
    return tuple(features(batch, height, width, stride, seed=1 + index) for index in range(len(decoder.past)))


def target(batch: int = 4, height: int = 64, width: int = 64, num_classes: int = CLASSES) -> Target:
    """Labels without the last class where there are more than two, with a strip of void."""
    draw = torch.Generator().manual_seed(7)
    labels = torch.randint(0, max(2, num_classes - 1), (batch, height, width), generator=draw)
    labels[:, :8] = VOID
    return Target(labels, torch.arange(batch) + 11)


def step(decoder: contract.Decoder, prior: Tensor | None = None, aim: Target | None = None) -> contract.Output:
    """Return a training step's output on random features."""
    torch.manual_seed(3)
    aim = target() if aim is None else aim
    if prior is None and decoder.prior == "previous":  # the trainer always has one for it
        prior = aim.labels.flip(0)
    output: contract.Output = decoder.train()(features(), earlier(decoder), prior, aim)
    return output
