"""Weight files, read and fitted: what the encoders share. Errors are one line that names the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model", "module")  # how the toolboxes wrap the tensors in a checkpoint


def read(path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, by name.

    Raises FileNotFoundError where there is no such file, ValueError where it holds no weights.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is no weights file: {reason}") from error
    for name in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} is no weights file: it holds a {type(state).__name__}")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load all that `module` has from `state`; what is left over there (a classifier) is not needed.

    Raises ValueError where a tensor of the module is missing or has another shape.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state]
    if missing:
        raise ValueError(f"{origin} lacks {len(missing)} of {len(own)} tensors, {missing[0]} first")
    for name, value in own.items():
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(value.shape)}"
            raise ValueError(f"{origin} does not fit: {name} has the shape {shapes}")
    module.load_state_dict({name: state[name] for name in own}, strict=False)


def untrained(model: str, **options: object) -> Any:
    """A timm model with random weights; nothing is fetched.

    Raises ValueError where timm knows no such model or tag.
    """
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model}")
    try:
        return timm.create_model(model, pretrained=False, **options)
    except RuntimeError as error:
        raise ValueError(f"timm cannot make {model}: {error}") from error


def from_hub(model: str, **options: object) -> nn.Module:
    """A timm model with the weights that the hub has for it.

    Raises FileNotFoundError where they cannot be had.
    """
    try:
        return timm.create_model(model, pretrained=True, **options)
    except Exception as error:  # no network, no such tag, no weights: the libraries below share no base class
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"{model} is not to be had from the hub ({reason}); name a local file") from error
