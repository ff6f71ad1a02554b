"""Atomic writes: a file gets its name when it is whole, so that a reader sees all of it or none; small JSON files."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.common.errors import UnfitError

JsonObject = dict[str, Any]  # of open keys: an identity, a plug-in's options, a file of another version


def temporary(target: Path) -> Path:
    """Return a path beside the target, of this process alone: hosts that share a file system may share process ids."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def read_json(path: Path) -> JsonObject:
    """Return a small JSON file that is written by rename; {} if it is absent. Raise UnfitError if it is damaged."""
    try:
        loaded = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UnfitError(f"{path}: is damaged ({error}); remove it, or the folder it is in") from error
    if not isinstance(loaded, dict):
        raise UnfitError(f"{path}: is damaged (not a mapping); remove it, or the folder it is in")
    return loaded


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON file by rename, so that a reader sees all of it or none."""
    partial = temporary(path)
    with partial.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
