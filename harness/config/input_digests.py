"""Digests of the files that a configuration reads: data sets by their split lists and files, weights by sha256."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness.common.errors import UnfitError
from harness.common.progress import SILENT, Progress
from harness.config import plugins
from harness.config.compose import Config, Content
from harness.data import contract, manifest
from harness.data.contract import Dataset
from harness.data.hold_out import HoldOut

SPLITS = ("train", "val")
OPTIONAL = ("test",)  # a data set is whole without it


def resolve(
    config: Config,
    root: Path | None,
    compute: bool = False,
    progress: Progress = SILENT,
    only: Collection[str] = (*SPLITS, *OPTIONAL),
) -> Config:
    """Return the configuration with its content known as far as it is there; `root` keeps the cache of file digests.

    Files of the data (of `only` these splits) are read with `compute`, else their cached digests are taken. Missing
    data is not an error here, since planning works without it: Content.missing says what and why.
    """
    with plugins.blamed(plugins.find("datasets", config["data"]["name"], config.folders)):
        return _resolve(config, root, compute, progress, only)


def _resolve(config: Config, root: Path | None, compute: bool, progress: Progress, only: Collection[str]) -> Config:
    missing: list[str] = []
    dataset = build_dataset(config)
    splits: dict[str, str | None] = {}
    for split in SPLITS:
        try:
            splits[split] = dataset.digest(split)
        except UnfitError as error:
            splits[split] = None
            missing.append(str(error))
    absent: dict[str, str] = {}
    for split in OPTIONAL if not missing else ():
        try:
            splits[split] = dataset.digest(split)
            if not dataset.videos(split):
                absent[split] = f"the data set has no video in its {split} split"
        except UnfitError as error:
            absent[split] = f"the data set has no {split} split ({error})"
    manifests: dict[str, str | None] = {}
    undigested: dict[str, str] = {}
    for split in [split for split in only if splits.get(split) and split not in absent]:
        try:
            manifests[split], undigested[split] = manifest_of(config, split, root, compute, progress)
        except UnfitError as error:
            undigested[split] = str(error)
            if compute and split in SPLITS:
                missing.append(str(error))
    files: dict[str, str | None] = {}
    start = {} if config.train.start is None else {"train.start": config.train.start}
    for key, path in {**content_files(config), **start}.items():
        try:
            files[key] = file_digest(Path(path).expanduser(), root)
        except (OSError, UnfitError, ValueError, RuntimeError) as error:  # not readable; a NUL in the path; ~nobody
            files[key] = None
            missing.append(f"{key}={path}: {getattr(error, 'strerror', None) or error}")
    try:
        classes = len(dataset.classes)
    except UnfitError as error:
        classes = None
        missing.append(str(error))
    videos = {split: contract.planned(dataset, split) for split in SPLITS}
    content = Content(splits, videos, classes, files, tuple(dict.fromkeys(missing)), absent)
    why = {split: reason for split, reason in undigested.items() if reason}
    return replace(config, content=replace(content, manifests=manifests, undigested=why))


def manifest_of(
    config: Config, split: str, root: Path | None, compute: bool, progress: Progress = SILENT
) -> tuple[str | None, str]:
    """Return the digest of a split's files, or why there is none; the root keeps the manifest. Raise UnfitError."""
    files = inventory(config, split, root, compute, progress)
    if files is None:
        return None, ""
    if files.pending:
        return (
            None,
            f"{files.pending} of {len(files.paths)} files are new or have changed since their digests were computed",
        )
    if root is not None and root.is_dir() and files.digest and not manifest_path(root, files.digest).exists():
        with suppress(OSError):
            manifest.write(manifest_path(root, files.digest), files.digests)
    return files.digest, ""


def data_folder(config: Config) -> Path | None:
    """Return the folder that the data set is read from; None where its options name none, or several."""
    name = config["data"]["name"]
    cls: Any = plugins.read_schema(plugins.find("datasets", name, config.folders)).config
    keys = [f.name for f in fields(cls) if f.metadata.get("path")] if cls else []
    paths = [config["data"][name][key] for key in keys if config["data"][name][key]]
    return Path(paths[0]).expanduser() if len(paths) == 1 else None


def manifest_path(root: Path, digest: str) -> Path:
    """Return where the root keeps the manifest of a split."""
    return root / "data" / f"{digest[:16]}.sha256.gz"


def inventory(
    config: Config, split: str, root: Path | None, compute: bool, progress: Progress = SILENT
) -> manifest.Inventory | None:
    """Return the files of a split; None for a data set that does not list any. Raise UnfitError."""
    dataset, name = build_dataset(config), config["data"]["name"]
    files: Callable[[str], Iterable[tuple[str, Path]]] | None = getattr(dataset, "split_files", None)
    if files is None:
        return None
    key = json.dumps([name, config["data"].get(name, {}), split], sort_keys=True)
    cache = None
    if root is not None and (compute or root.is_dir()):  # planning makes no root
        cache = root / "cache" / "data" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    return manifest.take(files(split), cache, compute, progress)


def build_dataset(config: Config) -> Dataset:
    """Return the data set that a configuration names, with the split `dev` where it holds a part of `train` out."""
    name, share = config["data"]["name"], config["data"]["hold_out"]
    module = plugins.load_named("datasets", name, config.folders, ("VERSION", "Config", "Dataset"))
    dataset: Dataset = module.Dataset(module.Config(**config["data"][name]))
    return dataset if share is None else HoldOut(dataset, share)


def units(config: Config, videos: Iterable[str]) -> dict[str, str]:
    """Return the unit that each video belongs to in an interval: itself, or the recording it was cut from."""
    dataset = build_dataset(config)
    return {video: dataset.unit(video) for video in videos}


def content_files(config: Config) -> dict[str, str]:
    """Return the paths whose content enters the identity, by full key: of the encoder and the metrics in use."""
    used = [("encoder", "encoders", config.encoder)]
    used += [("metric", "metrics", config.metric(name)) for name in config.evaluate.metrics]
    paths: dict[str, str] = {}
    for section, kind, plugin in used:
        cls: Any = plugins.read_schema(plugins.find(kind, plugin.name, config.folders)).config
        keys = [f.name for f in fields(cls) if f.metadata.get("content")] if cls else []
        values = {f"{section}.{plugin.name}.{key}": plugin.config.get(key) for key in keys}
        paths |= {key: value for key, value in values.items() if value is not None}
    return paths


def file_digest(path: Path, root: Path | None) -> str:
    """Return a file's sha256, cached under the root. Raise OSError if it cannot be read, UnfitError for a folder."""
    with path.open("rb"):  # with the system's own words
        pass
    cache = None
    if root is not None and root.is_dir():
        cache = root / "cache" / "files" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.npz"
    return manifest.take([(path.name, path)], cache).digests[path.name]
