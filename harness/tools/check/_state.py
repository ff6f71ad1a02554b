"""Whether a fresh module computes the same with another's state: what else it holds is lost when weights are loaded."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from harness.engine import build
from harness.tools.check._result import Broken, expect

Module = TypeVar("Module", bound=nn.Module)


def restored(module: nn.Module, make: Callable[[], Module]) -> Module:
    """Return what `make` returns, made as evaluations make it and with the state of `module`, in eval mode."""
    fresh = build.undrawn(make)
    try:
        fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    except RuntimeError as error:
        raise Broken(f"a fresh one does not accept the state: {error}") from error
    return fresh.eval()


def nothing_lost(module: nn.Module, outputs: str, gap: float) -> str:
    """Return the figures of a round trip whose outputs differ by `gap`. Raise Broken if they differ at all."""
    expect(gap == 0, f"with the saved weights the {outputs} differ by {gap:.3g}: some state is in no state_dict()")
    return f"{len(module.state_dict())} tensors, max difference 0"
