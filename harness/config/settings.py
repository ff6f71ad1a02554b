"""A person's or a site's defaults, from harness.yaml: how and where, never what a number depends on.

Looked for in the working directory, then in the user's configuration folder; flags win over it. Relative paths are
taken from the file's own folder, ~ is the home.
"""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.config import compose, plugins, presets

FILE = "harness.yaml"


@dataclass(frozen=True)
class PlanOptions:
    """The configuration of a plan, and its output directory."""

    preset: str = "demo"
    root: str = "runs"
    plugins: tuple[str, ...] = ()  # folders


@dataclass(frozen=True)
class RankOptions:
    """Run options that ranks read: how.json and job.yaml have them."""

    stall: float = 10.0  # minutes without a step after which a launch is ended and resumed once; 0: never
    deterministic: bool = False  # GPU kernels that give the same bits twice, slower

    @property
    def for_ranks(self) -> JsonObject:
        """Options that ranks read."""
        return {f.name: getattr(self, f.name) for f in fields(RankOptions)}


@dataclass(frozen=True)
class LaunchOptions(RankOptions):
    """Run options that harness.yaml may set."""

    launcher: str = "auto"
    nproc: int | None = None  # ranks on a node
    nodes: int | None = None  # with Slurm
    slurm: JsonObject = field(default_factory=dict)  # options of sbatch: {partition: gpu, gpus_per_node: 8, …}
    tracking_uri: str | None = None  # MLFLOW_TRACKING_URI goes before it
    prefix: str = ""  # before the names of MLflow experiments
    notify: str | None = None  # a command, or a webhook's http(s) address, when a plan is done, failed or stuck


@dataclass(frozen=True)
class RunOptions(LaunchOptions):
    """Options of a run that no number depends on: nothing of it enters a fingerprint."""

    offline: bool = False
    rerun: str | None = None  # 'changed', or a cell's name
    command: tuple[str, ...] = tuple(sys.argv)
    only: tuple[str, ...] | None = None  # fingerprints of the jobs to run here; None: all that are missing
    inside: bool = False  # an allocation: a store that cannot be reached from here is told later
    max_jobs: int | None = None  # Slurm jobs of the plan in the queue at a time

    @classmethod
    def of(cls, settings: "Settings", **more: Any) -> Self:
        """Return the options that the settings hold, and those of the command."""
        return cls(**{f.name: getattr(settings, f.name) for f in fields(LaunchOptions)}, **more)

    @property
    def node_count(self) -> int:
        """Nodes of a launch."""
        return (self.nodes or 1) if self.launcher == "slurm" else 1


@dataclass(frozen=True)
class Settings(LaunchOptions, PlanOptions):
    """The keys of harness.yaml."""

    paths: dict[str, str] = field(default_factory=dict)  # config keys that say where: {data.vspw.root: DIR}


@dataclass(frozen=True)
class Resolved:
    """Settings, and where each of them came from."""

    settings: Settings
    sources: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.settings, name)


def find() -> Path | None:
    """Return the harness.yaml that counts: the working directory's, else the user's."""
    base = os.environ.get("XDG_CONFIG_HOME") or (os.path.expanduser("~/.config"))
    places = [Path(FILE), Path(base) / "harness" / FILE]
    return next((path for path in places if os.path.isfile(path)), None)  # False in a home that is another's


def resolve(**flags: Any) -> Resolved:
    """Resolve settings: flags that were given (not None), then harness.yaml, then the built-in defaults.

    Raise UsageError for a key that is not there, a wrong type, or a path key that would change a number.
    """
    path = find()
    values = {f.name: getattr(Settings(), f.name) for f in fields(Settings)}
    sources = dict.fromkeys(values, "built in")
    if path is not None:
        given = read(path)
        values |= given
        sources |= dict.fromkeys(given, str(path))
    if os.environ.get("MLFLOW_TRACKING_URI"):
        values["tracking_uri"] = os.environ["MLFLOW_TRACKING_URI"]
        sources["tracking_uri"] = "MLFLOW_TRACKING_URI"
    for name, value in flags.items():
        if value is not None:
            values[name] = value
            sources[name] = "flag"
    settings = Settings(**values)
    if not 0 <= settings.stall < math.inf:
        raise UsageError(f"stall {settings.stall:g} ({sources['stall']}): minutes, 0 for never")
    if settings.nproc is not None and settings.nproc < 1:
        raise UsageError(f"nproc {settings.nproc} ({sources['nproc']}): must be at least 1")
    check_paths(settings, path)
    return Resolved(settings, sources)


def read(path: Path) -> JsonObject:
    """Return the keys that a file gives, typed, its relative paths made absolute. Raise UsageError."""
    loaded = presets.read(path, "settings")
    names = list(loaded)  # merging changes it
    schema = OmegaConf.structured(Settings)
    OmegaConf.set_readonly(schema, False)
    try:
        merged = OmegaConf.to_container(compose.merge(schema, loaded, str(path)), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{path}: {compose.explain(error)}") from error
    assert isinstance(merged, dict)
    given: JsonObject = {str(name): merged[name] for name in names}
    here = path.resolve().parent

    def absolute(value: str) -> str:
        return str(here / os.path.expanduser(value))

    if "root" in given:
        given["root"] = absolute(given["root"])
    if "preset" in given:
        text = str(given["preset"])
        parts = [text] if os.path.isfile(absolute(text)) else text.split("+")
        given["preset"] = "+".join(absolute(part) if part.endswith((".yaml", ".yml")) else part for part in parts)
    if "plugins" in given:
        given["plugins"] = tuple(map(absolute, given["plugins"]))
    if "paths" in given:
        given["paths"] = {key: absolute(value) for key, value in given["paths"].items()}
    return given


def check_paths(settings: Settings, path: Path | None) -> None:
    """Raise UsageError for a key under `paths` that is unknown or more than a place."""
    allowed = place_keys(settings.plugins) if settings.paths else []  # reading every plug-in's schema takes a while
    for key in settings.paths:
        if key not in allowed:
            raise UsageError(
                f"{path}: paths: '{key}' is not a path setting{plugins.suggestion(key, allowed)}; choose from "
                f"{', '.join(allowed)}. Keys that results depend on belong in a preset"
            )


def place_keys(folders: plugins.Folders) -> list[str]:
    """Return all configuration keys that hold a path: marked `path`, or `content` for a file whose digest counts."""

    def visit(cls: Any, prefix: str) -> list[str]:
        keys = []
        for f in fields(cls):
            inner = f.default_factory if callable(f.default_factory) else None
            if is_dataclass(inner):
                keys += visit(inner, f"{prefix}{f.name}.")
            elif f.metadata.get("path") or f.metadata.get("content"):
                keys.append(prefix + f.name)
        return keys

    return visit(compose.schema(folders), "")
