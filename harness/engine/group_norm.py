"""Group normalisation (Wu and He 2018) instead of a decoder's batch normalisation: no image depends on another.

It is for trainings whose batch-norm group, `train.micro_batch`, is small. The encoder's norms stay as they are.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.common.errors import UnfitError


def replace_batch_norm(decoder: nn.Module, groups: int | None) -> None:
    """Replace every BatchNorm2d of a decoder by a GroupNorm with its scale, shift and eps; nothing without groups.

    Raise UnfitError for a decoder without batch norms, one of another kind, or channels that `groups` does not divide.
    """
    if groups is None:
        return
    norms = [(name, module) for name, module in decoder.named_modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise UnfitError(f"train.group_norm={groups}: the decoder has no batch norm; leave the key out")
    for name, norm in norms:
        if type(norm) is not nn.BatchNorm2d:
            raise UnfitError(f"train.group_norm={groups}: decoder.{name} is a {type(norm).__name__}, not a BatchNorm2d")
        if norm.num_features % groups:
            raise UnfitError(
                f"train.group_norm={groups}: must divide the {norm.num_features} channels of decoder.{name}"
            )
        group = nn.GroupNorm(groups, norm.num_features, norm.eps, affine=False)
        group.affine, group.weight, group.bias = norm.affine, norm.weight, norm.bias
        decoder.set_submodule(name, group)
