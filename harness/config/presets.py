"""Presets: YAML files of keys, which may be based on others; those of experiments/presets by name, others by path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.common.errors import UsageError
from harness.config import plugins

PRESETS = plugins.PROJECT / "experiments" / "presets"


def chain(preset: str, above: Sequence[Path] = ()) -> list[Path]:
    """Return the preset's file after those it is based on; a base given by its path is taken from the preset's folder.

    Of several, as `camvid+cityscapes_video`, each comes after those before it and its own bases, once. Raise UsageError
    where one is missing or they form a circle.
    """
    if "+" in preset and not Path(preset).is_file():
        return [*dict.fromkeys(file for part in preset.split("+") for file in chain(part, above))]
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in PRESETS.glob("*.yaml"))
        near = plugins.suggestion(preset, names)
        raise UsageError(f"unknown preset '{preset}'{near}; choose from {', '.join(names)}, or a path to a .yaml")
    if path.resolve() in [other.resolve() for other in above]:
        raise UsageError(f"preset {path}: its bases refer to each other in a circle")
    base = read(path).get("base")
    if not base:
        return [path]
    parts = str(base).split("+")
    places = [str(path.parent / part) if part.endswith((".yaml", ".yml")) else part for part in parts]
    return [*chain("+".join(places), (*above, path)), path]


def read(path: Path, what: str = "preset") -> Any:
    """Return a file's YAML as an OmegaConf node. Raise UsageError where it is not a mapping."""
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:
        raise UsageError(f"{what} {path}: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(loaded):
        raise UsageError(f"{what} {path}: must be a mapping of keys to values")
    return loaded
