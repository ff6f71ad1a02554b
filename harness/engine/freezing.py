"""Parameters that training leaves as they are: no gradient, no optimiser state, and their layers in eval mode."""

import re
from fnmatch import fnmatchcase

from harness.common.errors import UnfitError
from harness.engine import low_rank
from models.segmentor import Segmentor


def freeze(model: Segmentor, rule: str | None) -> None:
    """Freeze what `train.freeze` names, and all of an encoder that was adapted (low_rank) but its factors.

    A rule is "encoder", "encoder:N" (what comes before its blocks, and the first N), or a pattern of parameter names.
    A module all of whose parameters are frozen stays in eval mode with all below it: batch norms keep their
    statistics, nothing is dropped out. Raise UnfitError for a rule that freezes nothing, or everything.
    """
    whole = dict(model.named_parameters())
    adapted = any(map(low_rank.is_factor, whole))
    if rule is None and not adapted:
        return
    names = [] if rule is None else frozen_names(model, rule)
    if adapted:
        rest = [name for name in frozen_names(model, "encoder") if not low_rank.is_factor(name)]
        names = [name for name in dict.fromkeys([*names, *rest]) if not low_rank.is_factor(name)]
    if not names or len(names) == len(whole):
        what = "no parameter of this model matches" if not names else "nothing is left to train"
        raise UnfitError(
            f"train.freeze={rule}: {what}; names look like {', '.join(list(whole)[:2])}, {list(whole)[-1]}"
        )
    for name in names:
        whole[name].requires_grad_(False)
    model.frozen = frozenset(
        prefix
        for prefix, module in model.named_modules()
        if (own := [parameter for _, parameter in module.named_parameters()])
        and not any(parameter.requires_grad for parameter in own)
    )


def frozen_names(model: Segmentor, rule: str) -> list[str]:
    """Return the names of the parameters that a rule means. Raise UnfitError for more blocks than there are."""
    names = [name for name, _ in model.named_parameters()]
    match = re.fullmatch(r"encoder:(\d+)", rule)
    if rule != "encoder" and match is None:
        return [name for name in names if fnmatchcase(name, rule)]
    encoder = [name for name in names if name.startswith("encoder.")]
    if match is None:
        return encoder
    blocks, depth = int(match[1]), int(model.encoder.num_layers)  # type: ignore[arg-type]
    if blocks > depth or not depth:
        raise UnfitError(
            f"train.freeze={rule}: the encoder has {depth} blocks; train.freeze=encoder also freezes its pyramid"
        )
    layer_id = model.encoder.layer_id
    return [name for name in encoder if layer_id(name.removeprefix("encoder.")) <= blocks]  # type: ignore[operator]
