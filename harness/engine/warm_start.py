"""Warm start: a training that begins from the weights of another one, as far as they fit.

The file is known by its content (harness.plan.start_weights locates it); an encoder's own pre-trained weights are
loaded before it, so that what it lacks of the encoder is theirs.
"""

import json
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.common.errors import UnfitError
from harness.engine import checkpoint
from models.encoders import _weights

VERSION = 1

COUNTER = "num_batches_tracked"


def load(model: nn.Module, path: str, digest: str | None = None) -> str:
    """Fill in all tensors of a file that fit the model; a line that names what was left out on either side.

    Layers (modules without children) take all of their tensors or none: a classifier or a memory of another number of
    classes stays as it was drawn. `digest` is the sha256 that the plan has seen. Raise UnfitError for a file that has
    changed, cannot be read, holds numbers that are not finite, or fits nowhere.
    """
    if digest is not None and checkpoint.sha256(Path(path)) != digest:
        raise UnfitError(
            f"train.start={path}: is not the file that the plan was made with (its sha256 differs); plan again"
        )
    own = model.state_dict()
    try:
        picked = _weights.pick(path, own)
    except (OSError, ValueError) as error:
        raise UnfitError(f"train.start: {error}") from error
    stored = picked.tensors
    missing = {name for name in own if name not in stored and not name.endswith(COUNTER)}
    other = {name for name in own.keys() & stored.keys() if not same_kind(stored[name], own[name])}
    fresh = {*missing, *other}
    layers = layers_of(model)
    fresh |= {name for name in own if any(rest in fresh for rest in layers.get(owner(name), ()))}
    taken = {name: stored[name] for name in own if name in stored and name not in fresh}
    if not taken:
        raise UnfitError(
            f"train.start={path}: none of its {len(stored)} tensors fits this model; name weights of this model"
        )
    for name, value in taken.items():
        if value.is_floating_point() and not bool((value.isfinite() | value.isinf()).all()):
            raise UnfitError(
                f"train.start={path}: {name} contains values that are not numbers (nan); use other weights"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model on the meta device, as the check before a run has it, keeps none
        model.load_state_dict(taken, strict=False)
    shapes = {name: f"{size(stored[name])} there, {size(own[name])} here" for name in sorted(other)}
    left = {
        "of another shape": [f"{name} ({shape})" for name, shape in shapes.items()],
        "fresh with them": summary(fresh - missing - other, own),
        "missing from the file": summary(missing, own),
        "not part of this model": summary(stored.keys() - own.keys(), stored),
    }
    parts = [f"{title}: {', '.join(names)}" for title, names in left.items() if names]
    note = f" ({picked.note})" if picked.note else ""
    head = f"warm start from {path}{note}: {len(taken)} of {len(own)} tensors taken"
    return f"{head}; left out, {'; '.join(parts)}" if parts else head


def other_classes(path: str, classes: Sequence[str]) -> str:
    """Return a line where a training's file says that its K labels have other names, else nothing."""
    theirs = stored_classes(path)
    if theirs is None or len(theirs) != len(classes) or theirs == tuple(classes):
        return ""
    first = next(index for index, name in enumerate(theirs) if name != classes[index])
    return (
        f"warm start: label {first} is {theirs[first]} in {path} and {classes[first]} here: the classifier taken over "
        "was trained for other classes"
    )


def stored_classes(path: str) -> tuple[str, ...] | None:
    """Return the classes that our own weights name; None for another's file."""
    if not _weights.is_safetensors(Path(path)):
        return None
    try:
        with safe_open(path, "pt") as file:
            return checkpoint.origin_of(file.metadata() or {}).classes
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError):
        return None


def same_kind(stored: Tensor, wanted: Tensor) -> bool:
    """Return whether a tensor can take another's place."""
    return stored.shape == wanted.shape and _weights.fits(stored, wanted)


def layers_of(model: nn.Module) -> dict[str, list[str]]:
    """Return the tensors of each module without children, by the module's name; counters aside."""
    return {
        prefix: [f"{prefix}.{name}" if prefix else name for name in module.state_dict() if not name.endswith(COUNTER)]
        for prefix, module in model.named_modules()
        if not any(True for _ in module.children())
    }


def owner(name: str) -> str:
    """Return the name of the module that a tensor belongs to."""
    return name.rpartition(".")[0]


def summary(names: Collection[str], universe: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """Return names in order, counters aside; `prefix.* (n)` stands for all n of `universe` below a prefix."""
    wanted, whole = set(names), [name for name in universe if not name.endswith(COUNTER)]

    def visit(prefix: str) -> Iterator[str]:
        below = [name for name in whole if name.startswith(prefix)]
        among = [name for name in below if name in wanted]
        if not among:
            return
        if len(among) == len(below) > 1 and prefix:
            yield f"{prefix}* ({len(below)})"
            return
        for part in dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in below):
            if (name := prefix + part) in wanted:
                yield name
            yield from visit(f"{name}.")

    return list(visit(""))


def size(value: Tensor) -> str:
    """Return a tensor's shape for people."""
    return " × ".join(map(str, value.shape)) or "a number"
