"""A training step's losses: sums over this rank's part of the batch, divided by counts of the whole."""

import torch.nn.functional as F
from torch import Tensor

from models.contract import VOID, Output


def losses(output: Output, labels: Tensor, valid: int) -> dict[str, Tensor]:
    """Return cross entropies over `valid` pixels, by name: "loss" is the weighted whole, the others are unweighted,
    "loss_main" that of the logits.

    Labels are (B, H, W). The sum over these labels' pixels is divided by the number in the global batch, so that
    micro-batches and ranks add; without a valid pixel it is 0.
    """

    def cross_entropy(logits: Tensor) -> Tensor:
        full = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)  # (B, K, H, W)
        return F.cross_entropy(full, labels, ignore_index=VOID, reduction="sum") / max(valid, 1)

    parts = {auxiliary.name: cross_entropy(auxiliary.logits) for auxiliary in output.auxiliary}
    whole = main = cross_entropy(output.logits)
    for auxiliary in output.auxiliary:
        whole = whole + auxiliary.weight * parts[auxiliary.name]
    return {"loss": whole, "loss_main": main, **parts}
