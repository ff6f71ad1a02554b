"""Checkpoints that are whole or not there: temp file, fsync, rename, and a sha256 beside each.

The iteration is the whole position (randomness is a function of it), so a state is model, optimiser and scaler.
"""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

KEEP = 2  # the newest, and one to fall back to


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` iterations lies."""
    return folder / f"step-{step:09d}.pt"


def save(folder: Path, step: int, state: dict[str, Any], allowed: Callable[[], None] = lambda: None) -> Path:
    """Write the checkpoint after `step` iterations, and delete all but the newest KEEP.

    `allowed` raises where the writer has no right to the folder any more; nothing gets its name then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = path_of(folder, step)
    written = temporary(target)
    torch.save(state, written)
    digest = sha256(written)
    allowed()
    write_text(_sidecar(target), digest)  # first: a checkpoint under its name always has one
    replace(written, target, allowed)
    for old in _steps(folder)[:-KEEP]:
        path_of(folder, old).unlink()
        _sidecar(path_of(folder, old)).unlink(missing_ok=True)
    return target


def latest(folder: Path, log: Callable[[str], None]) -> int | None:
    """The newest step whose checkpoint is what was written; each broken one is told to `log` and passed over."""
    for step in reversed(_steps(folder)):
        path = path_of(folder, step)
        sidecar = _sidecar(path)
        if sidecar.exists() and sidecar.read_text(encoding="utf-8") == sha256(path):
            return step
        log(f"checkpoint {path.name} does not match its checksum; falling back to the one before")
    return None


def load(folder: Path, step: int, device: torch.device) -> dict[str, Any]:
    """The state saved after `step` iterations; `latest` has verified it."""
    state: dict[str, Any] = torch.load(path_of(folder, step), map_location=device, weights_only=True)
    return state


def clear(folder: Path) -> None:
    """Delete every checkpoint: the final weights are written."""
    for path in folder.glob("step-*"):
        path.unlink(missing_ok=True)
    sweep(folder)


def sweep(folder: Path) -> None:
    """Delete what a writer left half-written when it died."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is whole or not there, even if ranks write it at once."""
    written = temporary(path)
    written.write_text(text, encoding="utf-8")
    replace(written, path)


def temporary(target: Path) -> Path:
    """Where a file is written before it gets its name; no other process writes there."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def replace(written: Path, target: Path, allowed: Callable[[], None] = lambda: None) -> None:
    """Force a written file to disk, then give it its name, if that is still `allowed`."""
    with written.open("rb") as file:
        os.fsync(file.fileno())
    allowed()
    os.replace(written, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))
