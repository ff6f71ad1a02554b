"""Low-rank adaptation (LoRA, Hu 2021) of an encoder's attention: W + B A is trained, of which W stays as it is.

A is (rank, inputs) and drawn, B is (outputs, rank) and 0 at first, so training begins with W. The weights that are kept
are the sums, so that whatever reads them knows nothing of it.
"""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.common.errors import UnfitError
from harness.engine.checkpoint import StateDict
from models.segmentor import Segmentor

PART = ".parametrizations.weight."  # in names, as torch's parametrize makes them


class LowRank(nn.Module):
    """The weight of a linear layer with B A added."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.a = nn.Parameter(nn.init.normal_(weight.new_empty(rank, inputs), std=rank**-0.5))
        self.b = nn.Parameter(weight.new_zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """W (outputs, inputs)."""
        return weight + self.b @ self.a


def adapt(model: Segmentor, rank: int | None) -> None:
    """Give every linear layer of the encoder's attention its factors; nothing without a rank.

    Raise UnfitError for an encoder without attention.
    """
    if rank is None:
        return
    layers = [
        module
        for name, module in model.encoder.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[0].endswith("attn")
    ]
    if not layers:
        raise UnfitError(f"train.lora={rank}: the encoder has no attention layers named attn")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def is_factor(name: str) -> bool:
    """Return whether a parameter is one that `adapt` has added."""
    return f"{PART}0." in name


def merged(state: StateDict) -> StateDict:
    """Return the tensors of a state, with W + B A for each W, by the names of a model that was not adapted."""
    whole: StateDict = {}
    for name, value in state.items():
        if name.endswith(f"{PART}original"):
            layer = name.removesuffix(f"{PART}original")
            whole[f"{layer}.weight"] = value + state[f"{layer}{PART}0.b"] @ state[f"{layer}{PART}0.a"]
        elif not is_factor(name):
            whole[name] = value
    return whole
