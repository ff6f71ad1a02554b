"""Weight files, read and fitted: what the encoders share. Errors are one line that names the file and the remedy.

A file is only ever read as tensors: a pickle that asks for anything else is refused before it runs.
"""

import os
import pickle
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
    file = Path(os.path.expanduser(path))
    if os.path.isdir(file):
        raise ValueError(f"{shown(path)} is a folder; name the weights file in it")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no weights at {shown(path)}; name a .safetensors or .pth file")
    try:
        if file.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(file)
            return tensors
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors for a damaged file
        raise ValueError(f"{shown(path)} is no weights file: {reason(error)}") from error
    for name in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    tensors = {}
    if isinstance(state, Mapping):
        tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{shown(path)} is no weights file: it holds a {type(state).__name__} without named tensors")
    return tensors


def shown(text: str) -> str:
    """A path or a name as a message shows it: quoted and escaped where it holds what does not print."""
    return text if text.isprintable() else repr(text)


def reason(error: Exception) -> str:
    """Return a loader's error in one line for whoever named the file.

    torch's own words for a pickle that would run code advise to let it.
    """
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, pickle.UnpicklingError) and "eights only load failed" in first:
        return "it is damaged, or holds more than tensors, which could run code; save its tensors as .safetensors"
    return f"{shown(first or type(error).__name__)}; fetch it again"


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load all that `module` has from `state`; what is left over there (a classifier) is not needed.

    Raises ValueError where a tensor of the module is missing or has another shape.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state]
    if missing:
        what = f"lacks {len(missing)} of {len(own)} tensors, {missing[0]} first"
        raise ValueError(f"{shown(origin)} {what}; name weights of this model")
    for name, value in own.items():
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(value.shape)}"
            raise ValueError(f"{shown(origin)} does not fit: {name} has the shape {shapes}; name weights of this model")
        if not fits(state[name], value):
            kind = f"{state[name].layout}, {state[name].dtype}"
            raise ValueError(
                f"{shown(origin)} does not fit: {name} is no plain tensor of numbers ({kind}); save it as one"
            )
    module.load_state_dict({name: state[name] for name in own}, strict=False)


def fits(found: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor's kind can be copied into another without losing what it says."""
    plain = found.layout == torch.strided and not found.is_quantized
    return plain and found.is_floating_point() == wanted.is_floating_point() and not found.is_complex()


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


def normalisation(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, RGB in 0..255, of the images that a timm model was trained with.

    Source: `mean` and `std` of timm's pretrained_cfg. Raises ValueError where timm knows no such model or tag.
    """
    try:
        cfg = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    except RuntimeError as error:
        raise ValueError(f"timm cannot make {model}: {error}") from error
    if cfg is None:
        raise ValueError(f"timm has no model {model}")
    return tuple(255 * value for value in cfg.mean), tuple(255 * value for value in cfg.std)


def from_hub(model: str, **options: object) -> nn.Module:
    """A timm model with the weights that the hub has for it.

    Raises FileNotFoundError where they cannot be had.
    """
    try:
        pretrained: nn.Module = timm.create_model(model, pretrained=True, **options)
        return pretrained
    except Exception as error:  # no network, no such tag, no weights: the libraries below share no base class
        raise _absent(model, error) from error


def fetch(model: str) -> None:
    """Bring a timm model's weights from the hub into this machine's cache; nothing where they are there.

    Raises FileNotFoundError where they cannot be had.
    """
    known = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if known is None or not known.hf_hub_id:
        return  # no weights of the hub's: building the encoder says so
    try:
        place = (known.hf_hub_id, known.hf_hub_filename) if known.hf_hub_filename else (known.hf_hub_id,)
        timm.models.load_state_dict_from_hf(*place)
    except Exception as error:
        raise _absent(model, error) from error


def _absent(model: str, error: Exception) -> FileNotFoundError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return FileNotFoundError(f"{model} is not to be had from the hub ({first}); name a local file")
