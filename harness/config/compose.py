"""The typed configuration: what runs, never how. Presets and `key=value` are merged into dataclasses by OmegaConf."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.common import ranges
from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.config import overrides as overrides_of
from harness.config import plugins, presets
from harness.config.sections import COST_COLUMNS, NOT_NEGATIVE, EvaluateConfig, ReportConfig, TrainConfig

Members = tuple[tuple[str, type], ...]  # plug-ins' names and Configs


@dataclass(frozen=True)
class PluginSpec:
    """A plug-in by its name, with the values of its own Config."""

    name: str
    config: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class DataSpec(PluginSpec):
    """A data set."""

    hold_out: float | None = None  # share of its training videos that is the split `dev`


@dataclass(frozen=True)
class Content:
    """Digests of what a configuration reads; places stay out. None: made on the fly, or not there yet."""

    splits: Mapping[str, str | None] = field(default_factory=dict)
    videos: Mapping[str, int] = field(default_factory=dict)
    classes: int | None = None
    files: Mapping[str, str | None] = field(default_factory=dict)  # "encoder.beit.weights" -> sha256
    missing: tuple[str, ...] = ()  # why some of it is not known
    absent: Mapping[str, str] = field(default_factory=dict)  # split that a data set need not have -> why it has none
    # split -> sha256 of its files (harness.data.manifest); None: without files, not digested, or adopted
    manifests: Mapping[str, str | None] = field(default_factory=dict)
    undigested: Mapping[str, str] = field(default_factory=dict)  # split with files -> why they have no digest
    adopted: Mapping[str, str] = field(default_factory=dict)  # split -> why results of 0.1, made without digests, stand
    doubtful: Mapping[str, str] = field(default_factory=dict)  # split -> why they do not

    @property
    def data(self) -> dict[str, str | None]:
        """Return each split's digest: of its files, else of its list; None where it is made, or not there."""
        return {split: self.manifests.get(split) or digest for split, digest in self.splits.items()}


@dataclass(frozen=True)
class Config:
    """A composed configuration: a plain tree, the preset it came from, the plug-in folders and what it reads."""

    tree: JsonObject
    preset: str = "demo"
    folders: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()  # of the whole plan; the one at hand is tree["seed"]
    content: Content = field(default_factory=Content)

    def __getitem__(self, section: str) -> Any:
        return self.tree[section]

    @cached_property
    def train(self) -> TrainConfig:
        """The train section, typed."""
        return TrainConfig(**self.tree["train"])

    @cached_property
    def evaluate(self) -> EvaluateConfig:
        """The evaluate section, typed."""
        return EvaluateConfig(**self.tree["evaluate"])

    @property
    def data(self) -> DataSpec:
        """The data set in use."""
        section = self.tree["data"]
        return DataSpec(section["name"], section.get(section["name"], {}), section["hold_out"])

    @property
    def encoder(self) -> PluginSpec:
        """The encoder in use."""
        section = self.tree["encoder"]
        return PluginSpec(section["name"], section.get(section["name"], {}))

    def decoder(self, name: str) -> PluginSpec:
        """Return a decoder with its values."""
        return PluginSpec(name, self.tree["decoder"].get(name, {}))

    def metric(self, name: str) -> PluginSpec:
        """Return a metric with its values."""
        return PluginSpec(name, self.tree.get("metric", {}).get(name, {}))  # older plans have no such section

    @property
    def window(self) -> int:
        """Pixels of a test window's side: the crop by default."""
        return self.evaluate.window or self.train.crop

    @property
    def micro_batch(self) -> int:
        """Images that share BN statistics."""
        return self.train.batch if self.train.micro_batch is None else self.train.micro_batch

    def with_seed(self, seed: int) -> "Config":
        """Return the same with another seed."""
        return replace(self, tree={**self.tree, "seed": seed})

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """Return a copy with other values of some dotted keys, as `key=value`. Raise UsageError if one is unknown."""
        tree = self.tree
        for key, value in values.items():
            tree = put(tree, key.split("."), value, key)
        return replace(self, tree=tree)

    def value(self, key: str) -> Any:
        """Return the value of a dotted key. Raise UsageError for an unknown one."""
        value: Any = self.tree
        for name in key.split("."):
            value = pick(value, name, key)
        return value

    def next_seed(self) -> "Config | None":
        """Return the same with the plan's next seed, for pairs of equal models; None after the last."""
        later = [seed for seed in self.seeds if seed > self.tree["seed"]]
        return self.with_seed(later[0]) if later else None

    def iterations(self) -> int:
        """Return the optimiser steps: epochs × max(1, videos × frames_per_video // batch)."""
        train, videos = self.train, self.content.videos["train"]
        return train.epochs * max(1, videos * train.frames_per_video // train.batch)


def schema(folders: plugins.Folders = ()) -> type:
    """Return the dataclass of the whole tree: the shared sections, and a section for every plug-in in the folders."""
    kinds = ("datasets", "encoders", "decoders", "metrics")
    return whole_schema(*(tuple(configs(kind, folders).items()) for kind in kinds))


def configs(kind: str, folders: plugins.Folders) -> dict[str, type]:
    """Return the Config of each plug-in of a kind that has one. Raise UsageError for one that does not serve."""
    classes: dict[str, type] = {}
    for name, path in plugins.paths(kind, folders).items():
        config = plugins.read_schema(path).config
        if config is not None:
            validate_schema(config, path)
            classes[name] = config
    return classes


@cache
def whole_schema(datasets: Members, encoders: Members, decoders: Members, metrics: Members) -> type:
    """Return the dataclass of the whole tree with these Configs of plug-ins.

    `extra` (decoders that get a row of their own), `variants` (further ensembles) and `stages` (the last one of a table
    of stages) choose cells; no job depends on them.
    """

    def section(title: str, members: Members, *first: Any) -> Any:
        own = [(name, config, field(default_factory=config)) for name, config in members]
        return make_dataclass(title, [*first, *own], frozen=True)

    # share of the training videos that is the split `dev`
    hold_out = ("hold_out", float | None, field(default=None, metadata={"range": "(0, 1)"}))
    data = section("Datasets", datasets, ("name", str, field(default="synthetic")), hold_out)
    encoder = section("Encoders", encoders, ("name", str, field(default="beit")))
    decoder, metric = section("Decoders", decoders), section("Metrics", metrics)
    return make_dataclass(
        "Config",
        [
            ("seed", int, field(default=0, metadata=NOT_NEGATIVE)),
            ("precision", Literal["fp32", "bf16", "fp16"], field(default="fp32")),
            ("extra", tuple[str, ...], field(default=())),
            ("variants", Literal["none", "all"], field(default="none")),
            ("stages", int, field(default=3, metadata=NOT_NEGATIVE)),
            ("data", data, field(default_factory=data)),
            ("encoder", encoder, field(default_factory=encoder)),
            ("decoder", decoder, field(default_factory=decoder)),
            ("metric", metric, field(default_factory=metric)),
            ("train", TrainConfig, field(default_factory=TrainConfig)),
            ("evaluate", EvaluateConfig, field(default_factory=EvaluateConfig)),
            ("report", ReportConfig, field(default_factory=ReportConfig)),
        ],
        frozen=True,
    )


@cache
def defaults(typed: type) -> DictConfig:
    """Return a schema's defaults, to be copied and not changed."""
    node: DictConfig = OmegaConf.structured(typed)
    OmegaConf.set_readonly(node, False)
    return node


@cache
def validate_schema(config: type, path: Path) -> None:
    """Raise UsageError for a plug-in's Config whose fields have no default, none of their type, or a wrong range."""
    if not is_dataclass(config):
        raise UsageError(f"{path}: Config must be a dataclass: put @dataclass(frozen=True) above it")
    try:
        OmegaConf.structured(config())
    except Exception as error:  # of OmegaConf, or of the class itself
        problem = explain(error) if isinstance(error, OmegaConfBaseException) else first_line(error)
        raise UsageError(f"{path}: Config: {problem}; each field needs a default of its type") from error
    try:
        ranges.check(config, {entry.name: getattr(config(), entry.name) for entry in fields(config)})
    except (UsageError, ValueError) as error:
        raise UsageError(f"{path}: Config: {error}") from error


def compose(preset: str = "demo", overrides: Sequence[str] = (), folders: plugins.Folders = ()) -> Config:
    """Compose schema, then preset, then `key=value`. Raise UsageError for an unknown preset or key, or a wrong type."""
    typed = schema(folders)
    node = deepcopy(defaults(typed))
    for path in presets.chain(preset):
        loaded = presets.read(path)
        loaded.pop("base", None)
        node = merge(node, loaded, f"preset {path}")
    for override in overrides:
        node = merge(node, overrides_of.parse(override, typed), override)
    try:
        tree = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        source = [override for override in overrides if "${" in override] or [f"preset {preset}"]
        raise UsageError(f"{', '.join(source)}: {explain(error)}") from error
    ranges.check(typed, hashable(tree))
    config = Config(hashable(tree), Path(preset).stem, tuple(str(Path(folder).resolve()) for folder in folders))
    check(config)
    return config


def merge(node: Any, value: Any, source: str) -> Any:
    """Merge by OmegaConf, both changed by it; its errors become one line that names the source and the full key. Keys
    that YAML reads as numbers are taken as texts.
    """
    tree = OmegaConf.to_container(value, resolve=False)
    if (named := text_keys(tree)) != tree:
        value = OmegaConf.create(named)
    if "???" in leaves(tree):
        raise UsageError(f"{source}: ??? must be replaced by a value")  # OmegaConf would pass over it
    try:
        return OmegaConf.unsafe_merge(node, value)  # without a copy of both
    except OmegaConfBaseException as error:
        raise UsageError(f"{source}: {explain(error)}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{source}: {first_line(error)}") from error


def explain(error: OmegaConfBaseException) -> str:
    """Return an OmegaConf error in one line that names the full key."""
    key = getattr(error, "full_key", None)
    message = first_line(error).replace("$VALUE", repr(getattr(error, "value", "?")))
    if "is not a TupleConfig, ListConfig" in message:
        return f"a list is needed, in brackets: '{key}=[{getattr(error, 'value', None) or '…'}]'"
    return message + (f" (key {key})" if key and key not in message else "")


def check(config: Config) -> None:
    """Raise UsageError for values that their types allow and nothing else does."""
    train = config.train
    stride = config.evaluate.stride
    if stride is not None and stride > config.window:
        raise UsageError(
            f"evaluate.stride={stride}: must not exceed the window of {config.window}, or pixels would be skipped"
        )
    for name in config["report"]["columns"]:
        if name not in COST_COLUMNS:
            raise UsageError(f"report.columns={name}: not one of {', '.join(COST_COLUMNS)}")
    if train.batch % config.micro_batch:
        raise UsageError(f"train.micro_batch={train.micro_batch}: must divide train.batch={train.batch}")
    held_out = config.data.hold_out is not None and train.evaluate_split == "dev"
    train.check(on_dev=held_out and train.evaluate_every is not None)
    plugins.find("datasets", config.data.name, config.folders)
    plugins.find("encoders", config.encoder.name, config.folders)
    for name in config.evaluate.metrics:
        try:
            plugins.find("metrics", str(name), config.folders)
        except UsageError as error:
            raise UsageError(f"evaluate.metrics: {error}") from error
        if config.evaluate.metrics.count(name) > 1:
            raise UsageError(f"evaluate.metrics: '{name}' is listed twice")
    for name in config["extra"]:
        if not isinstance(name, str):
            raise UsageError(f"extra={name}: must be names of decoders")
        try:
            plugins.find("decoders", name, config.folders)
        except UsageError as error:
            raise UsageError(f"extra: {error}") from error


def pick(tree: Any, name: str, key: str) -> Any:
    """Take one step down a dotted key. Raise UsageError where there is no such key."""
    if not isinstance(tree, dict) or name not in tree:
        near = plugins.suggestion(name, list(tree) if isinstance(tree, dict) else [])
        raise UsageError(f"unknown key '{key}'{near}")
    return tree[name]


def put(tree: JsonObject, names: Sequence[str], value: Any, key: str) -> JsonObject:
    """Return a copy of a tree with one value changed."""
    below = pick(tree, names[0], key)
    return {**tree, names[0]: value if len(names) == 1 else put(below, names[1:], value, key)}


def used(section: JsonObject, config_class: type | None) -> JsonObject:
    """Return the part of a section that enters an identity: neither `where` nor None."""
    places = {f.name for f in fields(config_class) if f.metadata.get("where")} if is_dataclass(config_class) else set()
    return {key: value for key, value in section.items() if key not in places and value is not None}


def first_line(error: BaseException) -> str:
    """Return an exception's first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def text_keys(tree: Any) -> Any:
    """Return a plain tree with texts for numbers as keys."""
    if isinstance(tree, dict):
        return {str(key) if type(key) is int else key: text_keys(value) for key, value in tree.items()}
    return [text_keys(value) for value in tree] if isinstance(tree, list) else tree


def leaves(tree: Any) -> list[Any]:
    """Return the values of a plain tree."""
    if isinstance(tree, dict | list):
        return [leaf for value in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(value)]
    return [tree]


def hashable(tree: Any) -> Any:
    """Return a tree with tuples for lists, so that trees compare and a plug-in's Config can be hashed."""
    if isinstance(tree, dict):
        return {key: hashable(value) for key, value in tree.items()}
    return tuple(hashable(value) for value in tree) if isinstance(tree, list) else tree
