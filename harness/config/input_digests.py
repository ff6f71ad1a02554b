"""Digests of the files that a configuration reads: data sets by their split lists, weights by sha256."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness.common.atomic_files import temporary
from harness.common.errors import UnfitError
from harness.config import plugins
from harness.config.compose import Config, Content
from harness.data.contract import Dataset
from harness.data.hold_out import HoldOut

SPLITS = ("train", "val")
OPTIONAL = ("test",)  # a data set is whole without it


def resolve(config: Config, root: Path | None) -> Config:
    """The configuration with its content known as far as it is there; `root` keeps the cache of file digests.

    Missing data is not an error here, since planning works without it: Content.missing says what and why.
    """
    with plugins.blamed(plugins.find("datasets", config["data"]["name"], config.folders)):
        return _resolve(config, root)


def _resolve(config: Config, root: Path | None) -> Config:
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
    files: dict[str, str | None] = {}
    for key, path in content_files(config).items():
        try:
            files[key] = file_digest(Path(path).expanduser(), root)
        except (OSError, ValueError, RuntimeError) as error:  # not readable; a NUL in the path; ~nobody
            files[key] = None
            missing.append(f"{key}={path}: {getattr(error, 'strerror', None) or error}")
    try:
        classes = len(dataset.classes)
    except UnfitError as error:
        classes = None
        missing.append(str(error))
    videos = {split: dataset.planned(split) for split in SPLITS}
    return replace(config, content=Content(splits, videos, classes, files, tuple(dict.fromkeys(missing)), absent))


def build_dataset(config: Config) -> Dataset:
    """The data set that a configuration names, with the split `dev` where it holds a part of `train` out."""
    name, share = config["data"]["name"], config["data"]["hold_out"]
    module = plugins.load_named("datasets", name, config.folders, ("VERSION", "Config", "Dataset"))
    dataset: Dataset = module.Dataset(module.Config(**config["data"][name]))
    return dataset if share is None else HoldOut(dataset, share)


def units(config: Config, videos: Iterable[str]) -> dict[str, str]:
    """The unit that each video belongs to in an interval: itself, or the recording it was cut from."""
    dataset = build_dataset(config)
    return {video: dataset.unit(video) for video in videos}


def content_files(config: Config) -> dict[str, str]:
    """Paths whose content enters the identity, by full key: only of the encoder in use."""
    name = config["encoder"]["name"]
    cls: Any = plugins.read_schema(plugins.find("encoders", name, config.folders)).config
    section = config["encoder"].get(name, {})
    keys = [f.name for f in fields(cls) if f.metadata.get("content")] if cls else []
    return {f"encoder.{name}.{key}": section[key] for key in keys if section[key] is not None}


def file_digest(path: Path, root: Path | None) -> str:
    """sha256 of a file, remembered under the root for its size and mtime. Raises OSError where it cannot be read."""
    stat = path.stat()
    cache = root / "cache" / "digests.json" if root is not None else None
    known = read_cache(cache)
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        if cache is not None and root is not None and root.is_dir():
            with suppress(OSError):  # a root that cannot be written remembers nothing
                cache.parent.mkdir(exist_ok=True)
                partial = temporary(cache)
                partial.write_text(json.dumps(known))
                partial.replace(cache)
    return str(known[key])


def read_cache(cache: Path | None) -> dict[str, str]:
    """The digests remembered so far; none where the file is absent or damaged."""
    try:
        known = json.loads(cache.read_text()) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
