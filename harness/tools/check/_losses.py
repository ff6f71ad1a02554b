"""A decoder's losses of its own: a sum over images and what it is a sum over, so that ranks and micro-batches add."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.common.errors import UnfitError
from harness.engine.losses import check_names
from harness.tools.check._result import Broken, expect
from models.contract import Loss, Output

RELATIVE, ABSOLUTE = 1e-3, 1e-5


def further(trained: Output, without: Output, part: Callable[[slice], Output]) -> str:
    """Names are the decoder's own, sums and counts are numbers, and those of two halves add up to the whole batch's.

    `trained` is a training step's output, `without` that of a batch without labels, `part` that of some rows of a
    fixed batch in eval mode, so that no batch statistics come in.
    """
    if not trained.further:
        expect(
            not without.further,
            "a batch without labels has losses that other batches lack: return a count of 0 instead",
        )
        return "no losses of its own"
    names = [loss.name for loss in trained.further]
    try:
        check_names([*(auxiliary.name for auxiliary in trained.auxiliary), *names])
    except UnfitError as error:
        raise Broken(str(error)) from error
    for loss in trained.further:
        expect(isinstance(loss.sum, Tensor) and loss.sum.shape == (), f"{loss.name}: expected a sum of shape ()")
        number = isinstance(loss.count, int | float) or loss.count.numel() == 1
        expect(number and float(loss.count) >= 0, f"{loss.name}: expected a count of at least 0, got {loss.count}")
    others = [loss.name for loss in without.further]
    expect(others == names, f"a batch without labels has the losses {others}, not {names}: return a count of 0 instead")
    whole, halves = part(slice(0, 4)).further, (part(slice(0, 2)).further, part(slice(2, 4)).further)
    for index, loss in enumerate(whole):
        for what in ("sum", "count"):
            total, *parts = (number_of(losses[index], what) for losses in (whole, *halves))
            gap = abs(total - sum(parts))
            expect(
                gap <= ABSOLUTE + RELATIVE * abs(total),
                f"{loss.name}: the {what} of two halves of a batch is {sum(parts):.4g}, of the whole {total:.4g}: "
                "return a sum over images and its count, not a mean",
            )
    return f"{', '.join(names)}: sums and counts of two halves add up to the whole"


def number_of(loss: Loss, what: str) -> float:
    """Return a loss's sum or count."""
    value: Sequence[float] | Tensor | float = getattr(loss, what)
    return float(torch.as_tensor(value))
