"""Weight files, read and fitted: what the encoders share. Errors are one line that names the file and the remedy.

A file is only ever read as tensors: a pickle that asks for anything else is refused before it runs.
"""

import os
import pickle
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = (
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)  # parts that torch adds to names
AVERAGED = re.compile(r"(^|[._])(ema|shadow|averaged)([._]|$)", re.IGNORECASE)  # names of averaged weights (EMA)
MAX_HEADER = 100_000_000  # bytes of a safetensors file's header, the format's own limit

Tensors = dict[str, Tensor]


class Picked(NamedTuple):
    """A model's tensors of a file, by the names that the model has for them, and what was done to get them."""

    tensors: Tensors
    note: str  # a line for people; empty where the file holds them as they are


class Source(NamedTuple):
    """A possible location of a model in a file: a mapping of tensors, and a prefix of their names."""

    group: str  # keys of the mappings around it
    prefix: str

    @property
    def averaged(self) -> bool:
        """Whether its names say that these weights are averages."""
        return AVERAGED.search(f"{self.group}.{self.prefix}") is not None

    def __str__(self) -> str:
        return ".".join(filter(None, (self.group, self.prefix.removesuffix("."))))


def pick(path: str, own: Iterable[str], ema: bool | None = None, plain: Callable[[str], str] = str) -> Picked:
    """The tensors of a file that a model with tensors `own` takes, whatever they are wrapped in and prefixed with.

    They are those that have most of the model's names; of raw and averaged weights (EMA) the raw ones, unless `ema`.
    `plain` brings a name of either side to a common form. Raises FileNotFoundError and ValueError as `read_groups`, and
    ValueError for a file that holds several such models, or no averaged one where `ema` asks for it.
    """
    names = set(own)
    stored = read_groups(path)
    groups = {group: unwrapped(tensors, names) for group, tensors in stored.items()}
    counts = sources(groups, {plain(name) for name in names}, plain)
    averaged = {source: count for source, count in counts.items() if source.averaged}
    if ema and not averaged:
        raise ValueError(f"{shown(path)} contains no averaged weights (EMA) of this model; omit ema")
    candidates = averaged if ema else counts
    best = [source for source, count in candidates.items() if count == max(candidates.values())]
    if not ema:
        best = [source for source in best if not source.averaged] or best
    best = distinct(best, groups)
    if len(best) > 1:
        where = " and ".join(f"'{source}'" if str(source) else "without prefix" for source in best[:3])
        raise ValueError(f"{shown(path)} contains this model {len(best)} times, {where}; save only the intended one")
    (chosen,) = best or [Source(largest(groups), "")]
    tensors = {
        name.removeprefix(chosen.prefix): value
        for name, value in groups[chosen.group].items()
        if name.startswith(chosen.prefix)
    }
    notes = [f"'{chosen}' of the file"] if str(chosen) else []
    if added := sorted(
        {part for name in stored[chosen.group].keys() - groups[chosen.group] for part in name.split(".")}
    ):
        notes.append(f"names without {', '.join(part for part in added if part in WRAPPERS)}")
    if chosen.averaged:
        notes.append("its averaged weights (EMA)")
    elif others := [str(source) for source, count in averaged.items() if count == counts.get(chosen)]:
        notes.append(f"not its averaged weights (EMA) '{others[0]}', which ema=true uses")
    return Picked(tensors, ", ".join(notes))


def sources(groups: Mapping[str, Tensors], names: Collection[str], plain: Callable[[str], str]) -> Counter[Source]:
    """Count the names of a model that are in the file, by group and prefix."""
    counts: Counter[Source] = Counter()
    for group, tensors in groups.items():
        for name in tensors:
            parts = name.split(".")
            for index in range(len(parts)):
                if plain(".".join(parts[index:])) in names:
                    counts[Source(group, "".join(f"{part}." for part in parts[:index]))] += 1
    return counts


def distinct(candidates: Sequence[Source], groups: Mapping[str, Tensors]) -> list[Source]:
    """The sources whose tensors differ from those of the ones before."""
    chosen: list[Source] = []
    for source in candidates:
        below = {
            name.removeprefix(source.prefix): value
            for name, value in groups[source.group].items()
            if name.startswith(source.prefix)
        }
        if not any(same(below, groups[other.group], other.prefix) for other in chosen):
            chosen.append(source)
    return chosen


def same(tensors: Tensors, others: Tensors, prefix: str) -> bool:
    """Whether all of the tensors are among the others, below a prefix."""
    return all(
        (other := others.get(prefix + name)) is not None and value.equal(other) for name, value in tensors.items()
    )


def unwrapped(tensors: Tensors, own: Collection[str]) -> Tensors:
    """The tensors without the parts of names that torch's wrappers add, wherever they are; unchanged if two meet."""
    added = {part for part in WRAPPERS if not any(part in name.split(".") for name in own)}
    renamed = {".".join(part for part in name.split(".") if part not in added): tensors[name] for name in tensors}
    return renamed if len(renamed) == len(tensors) else tensors


def read(path: str) -> Tensors:
    """The tensors of a safetensors or torch file, by name, of its largest mapping. Raises as `read_groups`."""
    groups = read_groups(path)
    return groups[largest(groups)]


def largest(groups: Mapping[str, Tensors]) -> str:
    """The group with most tensors; of equal ones the raw ones, then the first."""
    return min(groups, key=lambda group: (-len(groups[group]), Source(group, "").averaged))


def read_groups(path: str) -> dict[str, Tensors]:
    """The mappings of names to tensors in a safetensors or torch file, by the keys of the mappings around them.

    Raises FileNotFoundError where there is no such file, ValueError where it holds no weights.
    """
    file = Path(os.path.expanduser(path))
    if os.path.isdir(file):
        raise ValueError(f"{shown(path)} is a folder; give the weights file in it")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no weights at {shown(path)}; give a .safetensors or .pth file")
    try:
        if is_safetensors(file):
            state = load_file(file)
        else:
            with file.open("rb") as opened:  # torch goes by the suffix of a path
                state = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors for a damaged file
        raise ValueError(f"{shown(path)} is not a weights file: {reason(error)}") from error
    groups = dict(nested(state))
    if not groups:
        raise ValueError(
            f"{shown(path)} is not a weights file: it contains a {type(state).__name__} without named tensors"
        )
    return groups


def is_safetensors(file: Path) -> bool:
    """Whether a file is one by its first bytes: the length of a header, and its brace."""
    with file.open("rb") as opened:
        head = opened.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER


def nested(state: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensors]]:
    """The mappings that hold named tensors, in a mapping of mappings, by their keys."""
    if not isinstance(state, Mapping):
        return
    named = {name: value for name, value in state.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield ".".join(keys), tensors
    for name, value in named.items():
        yield from nested(value, (*keys, name))


def shown(text: str) -> str:
    """A path or a name as a message shows it: quoted and escaped where it holds what does not print."""
    return text if text.isprintable() else repr(text)


def reason(error: Exception) -> str:
    """Return a loader's error in one line for whoever named the file.

    torch's own words for a pickle that would run code advise to let it.
    """
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, pickle.UnpicklingError) and "eights only load failed" in first:
        return "it is damaged, or contains more than tensors, which could run code; save its tensors as .safetensors"
    return f"{shown(first or type(error).__name__)}; download it again"


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load all that `module` has from `state`; what is left over there (a classifier) is not needed.

    Raises ValueError where a tensor of the module is missing, has another shape, or is not finite.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state]
    if missing:
        what = f"lacks {len(missing)} of {len(own)} tensors, {missing[0]} first"
        raise ValueError(f"{shown(origin)} {what}; give weights of this model")
    for name, value in own.items():
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(value.shape)}"
            raise ValueError(f"{shown(origin)} does not fit: {name} has the shape {shapes}; give weights of this model")
        if not fits(state[name], value):
            kind = f"{state[name].layout}, {state[name].dtype}"
            raise ValueError(
                f"{shown(origin)} does not fit: {name} is not a plain tensor of numbers ({kind}); save it as one"
            )
        if wrong := int((~state[name].isfinite()).sum()):
            raise ValueError(
                f"{shown(origin)}: {name} has {wrong} numbers of {value.numel()} that are not finite; use other weights"
            )
    module.load_state_dict({name: state[name] for name in own}, strict=False)


def fits(stored: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor's kind can be copied into another without losing what it says."""
    plain = stored.layout == torch.strided and not stored.is_quantized
    return plain and stored.is_floating_point() == wanted.is_floating_point() and not stored.is_complex()


def untrained(model: str, **options: object) -> Any:
    """A timm model with random weights; nothing is fetched.

    Raises ValueError where timm knows no such model or tag.
    """
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model}")
    try:
        return timm.create_model(model, pretrained=False, **options)
    except RuntimeError as error:
        raise ValueError(f"timm cannot build {model}: {error}") from error


def normalisation(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, RGB in 0..255, of the images that a timm model was trained with.

    Source: `mean` and `std` of timm's pretrained_cfg. Raises ValueError where timm knows no such model or tag.
    """
    try:
        cfg = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    except RuntimeError as error:
        raise ValueError(f"timm cannot build {model}: {error}") from error
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
    cfg = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if cfg is None or not cfg.hf_hub_id:
        return  # no weights of the hub's: building the encoder says so
    try:
        address = (cfg.hf_hub_id, cfg.hf_hub_filename) if cfg.hf_hub_filename else (cfg.hf_hub_id,)
        timm.models.load_state_dict_from_hf(*address)
    except Exception as error:
        raise _absent(model, error) from error


def _absent(model: str, error: Exception) -> FileNotFoundError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return FileNotFoundError(f"{model} cannot be loaded from the hub ({first}); give a local file")
