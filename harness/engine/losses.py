"""A training step's losses: sums over this rank's part of the batch, divided by counts of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.common.errors import UnfitError
from harness.engine import distributed
from models import losses as own_losses
from models.contract import Loss, Output, void

MAIN = "loss_main"
NAMES = ("loss", MAIN, "loss_total", "lr", "momentum", "skipped")  # of what a step reports beside


@dataclass(frozen=True)
class Terms:
    """Keys of `train` that change the loss; with none of them it is the paper's."""

    class_weights: Tensor | None = None  # (K,)
    ohem: float | None = None
    dice: float | None = None
    lovasz: float | None = None
    micro_batches: int = 1  # an iteration


PLAIN = Terms()


def losses(output: Output, labels: Tensor, valid: float, terms: Terms = PLAIN) -> dict[str, Tensor]:
    """Return losses by name: "loss" is the weighted whole, the others are unweighted, "loss_main" that of the logits.

    Labels are (B, H, W). A cross entropy's sum over these labels' pixels is divided by `valid`, the number of labelled
    pixels in the global batch, or the sum of their classes' weights, so that micro-batches and ranks add; without a
    valid pixel it is 0. Other losses (models.contract.Loss) are divided by their counts over all ranks: the mean over
    the micro-batch, each of which is an equal share of the iteration. Raise UnfitError for two losses of one name.
    """

    def cross_entropy(full: Tensor) -> Tensor:
        total = own_losses.cross_entropy_sum(full, labels, terms.class_weights, void(full.shape[1]))
        return total / (valid if valid > 0 else 1)

    def resized(logits: Tensor) -> Tensor:
        return F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)  # (B, K, H, W)

    parts = {auxiliary.name: cross_entropy(resized(auxiliary.logits)) for auxiliary in output.auxiliary}
    logits = resized(output.logits)
    further = (*own_terms(logits, labels, terms), *output.further)
    names = [auxiliary.name for auxiliary in output.auxiliary] + [loss.name for loss in output.further]
    check_names([*names, *asked_names(terms)])
    values = means(further, labels.device, terms.micro_batches)
    main = cross_entropy(logits) if terms.ohem is None else values.pop(MAIN)
    whole = main
    for auxiliary in output.auxiliary:
        whole = whole + auxiliary.weight * parts[auxiliary.name]
    for loss in further:
        if loss.name in values:
            whole = whole + loss.weight * values[loss.name]
    return {"loss": whole, MAIN: main, **parts, **values}


def own_terms(logits: Tensor, labels: Tensor, terms: Terms) -> list[Loss]:
    """Return what the keys ask for: the main cross entropy of hard pixels alone, and auxiliary terms."""
    asked, unlabelled = [], void(logits.shape[1])
    if terms.ohem is not None:
        hard = labels.masked_fill(~own_losses.hard_pixels(logits, labels, terms.ohem, unlabelled), unlabelled)
        total = own_losses.cross_entropy_sum(logits, hard, terms.class_weights, unlabelled)
        asked.append(Loss(MAIN, total, own_losses.weight_sum(hard, terms.class_weights, unlabelled)))
    if terms.dice is not None:
        asked.append(Loss("dice", *own_losses.dice(logits, labels, unlabelled), terms.dice))
    if terms.lovasz is not None:
        asked.append(Loss("lovasz", *own_losses.lovasz(logits, labels, unlabelled), terms.lovasz))
    return asked


def asked_names(terms: Terms) -> list[str]:
    """Return the names of the auxiliary terms that the keys ask for."""
    return [name for name in ("dice", "lovasz") if getattr(terms, name) is not None]


def means(further: Sequence[Loss], device: torch.device, micro_batches: int) -> dict[str, Tensor]:
    """Return each loss's sum over its count over all ranks, 0 where that is 0, as a share of the iteration."""
    if not further:
        return {}
    counts = [torch.as_tensor(loss.count, dtype=torch.float64, device=device).detach() for loss in further]
    totals = distributed.total(torch.stack(counts))
    return {
        loss.name: loss.sum.float() / total.where(total > 0, 1.0).float() / micro_batches
        for loss, total in zip(further, totals, strict=True)
    }


def check_names(names: Sequence[str]) -> None:
    """Raise UnfitError for a loss that would stand in another's place."""
    for name in names:
        if name in NAMES or names.count(name) > 1:
            raise UnfitError(f"two losses or values of a step are named '{name}'; rename the decoder's own")
