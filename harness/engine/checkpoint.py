"""Checkpoints that are whole or not there: temp file, fsync, rename, and a sha256 beside each.

The iteration is the whole position (randomness is a function of it), so a state is model, optimiser and scaler.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.common.atomic_files import temporary
from harness.common.errors import UnfitError
from harness.data.pictures import shown
from harness.jobdir.paths import JobDir

T = TypeVar("T")
KEEP = 2  # the newest, and one to fall back to
StateDict = dict[str, Any]  # as torch's state_dict() gives it


class State(TypedDict):
    """The content of a checkpoint."""

    model: StateDict
    optimizer: StateDict
    scaler: StateDict
    supervision: NotRequired[dict[str, int]]  # counts of harness.engine.supervision; 0.1 kept none
    average: NotRequired[StateDict]  # of the weights, with train.ema
    selection: NotRequired[dict[str, Any]]  # the best weights, with train.keep=best or train.patience


class Origin(NamedTuple):
    """The training that wrote a file of weights, by the file; None where an earlier version did not say."""

    fingerprint: str | None
    classes: tuple[str, ...] | None  # names of labels 0..K-1


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` iterations."""
    return folder / f"step-{step:09d}.pt"


def save(folder: Path, step: int, state: State, allowed: Callable[[], None] = lambda: None) -> Path:
    """Write the checkpoint after `step` iterations, and delete all but the newest KEEP.

    `allowed` raises where the writer has no right to the folder any more; nothing gets its name then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = path_of(folder, step)
    written = temporary(target)
    torch.save(state, written)
    keep(written, target, allowed)
    for old in _steps(folder)[:-KEEP]:
        delete(path_of(folder, old))
    return target


def copied(state: T) -> T:
    """Return a state, or a part of one, that later steps do not change, its tensors on the CPU."""
    value: Any = state
    if isinstance(value, Tensor):
        return cast(T, value.detach().to("cpu", copy=True))
    if isinstance(value, dict):
        whole = copy(value)  # with what a state_dict knows beside its tensors
        whole.update((key, copied(part)) for key, part in value.items())
        return cast(T, whole)
    return cast(T, type(value)(map(copied, value))) if isinstance(value, list | tuple) else state


def delete(path: Path) -> None:
    """Delete a file that `keep` was given, and its checksum."""
    path.unlink(missing_ok=True)
    sidecar(path).unlink(missing_ok=True)


def latest(folder: Path, log: Callable[[str], None]) -> int | None:
    """Return the newest step whose checkpoint is what was written.

    Each broken one is told to `log` and deleted: `save` would keep it, as a newer one, in place of a whole one.
    """
    for step in reversed(_steps(folder)):
        path = path_of(folder, step)
        if whole(path):
            return step
        log(f"checkpoint {path.name} does not match its checksum; falling back to the previous one")
        delete(path)
    return None


def load(folder: Path, step: int, device: torch.device) -> State:
    """Return the state saved after `step` iterations; `latest` has verified it."""
    state: State = torch.load(path_of(folder, step), map_location=device, weights_only=True)
    return state


def weights(folder: Path) -> tuple[dict[str, Tensor], Origin]:
    """Return a training's result and what its file says of itself. Raise UnfitError where it is absent or damaged."""
    path = JobDir(folder).weights_file
    if sidecar(path).exists() and not whole(path):
        raise UnfitError(f"{shown(path)}: differs from what its training wrote (sha256 mismatch); train it again")
    with opened(folder) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, origin_of(file.metadata() or {})  # noqa: SIM118


def origin(folder: Path) -> Origin:
    """Return what a training's weights say of it; no tensor is read. Raise UnfitError where they cannot be read."""
    with opened(folder) as file:
        return origin_of(file.metadata() or {})


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """Open a training's weights. Raise UnfitError where they are absent or damaged."""
    path = JobDir(folder).weights_file
    if not path.is_file():
        raise UnfitError(f"{shown(folder)}: has no weights; is the training finished?")
    with path.open("rb"):  # what may not be read is no damage: raises PermissionError, which names it
        pass
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UnfitError(f"{shown(path)}: cannot be read ({error}); train it again") from error


def origin_of(metadata: Mapping[str, str]) -> Origin:
    """Return what a file's metadata says, as `save_weights` writes it; 0.1 wrote the fingerprint only."""
    if "training" not in metadata:
        return Origin(metadata.get("fingerprint"), None)
    training = json.loads(metadata["training"])
    return Origin(training["fingerprint"], tuple(training["classes"]))


def save_weights(
    target: Path, state: Mapping[str, Tensor], fingerprint: str, classes: Sequence[str], allowed: Callable[[], None]
) -> None:
    """Write a training's result by rename, with its checksum, as readable as any file that is made there.

    safetensors writes through a file of its own that nobody else may read; it writes several keys of metadata in any
    order, so there is one, and equal trainings leave equal bytes.
    """
    metadata = {"training": json.dumps({"fingerprint": fingerprint, "classes": list(classes)})}
    written = temporary(target)
    written.touch()
    mode = written.stat().st_mode
    save_file({name: value.cpu().contiguous() for name, value in state.items()}, written, metadata)
    written.chmod(mode)
    keep(written, target, allowed)


def clear(folder: Path) -> None:
    """Delete every checkpoint: the final weights are written."""
    for path in folder.glob("step-*"):
        path.unlink(missing_ok=True)
    sweep(folder)


def sweep(folder: Path) -> None:
    """Delete what a writer left half-written when it died."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def keep(written: Path, target: Path, allowed: Callable[[], None] = lambda: None) -> None:
    """Give a written file its name, with its sha256 beside it in NAME.sha256."""
    digest = sha256(written)
    allowed()
    write_text(sidecar(target), digest)  # first: a file under its name always has one
    replace(written, target, allowed)


def whole(path: Path) -> bool:
    """Return whether a file is what `keep` was given."""
    return path.exists() and sidecar(path).exists() and sidecar(path).read_bytes() == sha256(path).encode()


def sidecar(path: Path) -> Path:
    """Return the path of a file's sha256."""
    return path.with_suffix(".sha256")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is whole or not there, even if ranks write it at once."""
    written = temporary(path)
    written.write_text(text, encoding="utf-8")
    replace(written, path)


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


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))
