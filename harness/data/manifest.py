"""Files by content: a manifest has a line `sha256  name` for each, sorted by name; its own sha256 stands for them all.

A digest is computed once and cached with the file's size, times and inode. An entry is trusted only where the file had
been left alone for `RACY` when it was read: until then it could change again without another time. The time of the
inode (ctime) is among them, since tools set a file's own time back but not that one.
"""

import gzip
import hashlib
import json
import os
import stat
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.common.atomic_files import temporary
from harness.common.errors import UnfitError, refused
from harness.common.progress import QUIET, SILENT, Progress

RACY = 2 * 10**9  # ns; the coarsest clock of a file system in use (FAT)
CHUNK = 64  # files that a thread digests before it reports
WHOLE = 2**22  # bytes; larger files are read in parts
SAVE = 30.0  # seconds between two writes of the cache, while digests are computed
BYTES = hashlib.sha256().digest_size
SEAL = "masks.sha256.gz"  # in a job's directory
KINDS = {"origin": "image", "mask": "mask"}  # what a file is called, by the folder that it is in

Digests = Mapping[str, str]  # name -> sha256 in hex


class Entries(NamedTuple):
    """Files that were digested: N names, and rows of the same order."""

    names: bytes  # joined by NUL
    status: NDArray[np.int64]  # (N, 4): size, mtime and ctime in ns, inode
    sums: NDArray[np.uint8]  # (N, 32)
    trusted: NDArray[np.bool_]  # (N,)
    digest: str  # of the manifest; empty where it was not complete


@dataclass(frozen=True)
class Inventory:
    """Files with their status and, as far as they have been computed, digests."""

    paths: Mapping[str, str]  # name -> path, sorted by name
    status: NDArray[np.int64]  # (N, 4)
    sums: NDArray[np.uint8]  # (N, 32)
    digested: NDArray[np.bool_]  # (N,)
    cached: str = ""  # the digest, where the cache holds it

    @property
    def pending(self) -> int:
        """Return the number of files without a digest."""
        return int((~self.digested).sum())

    @cached_property
    def digests(self) -> Digests:
        """Return the digest of every file that has one."""
        return {
            name: row.tobytes().hex()
            for name, row, digested in zip(self.paths, self.sums, self.digested, strict=True)
            if digested
        }

    @cached_property
    def digest(self) -> str | None:
        """Return the manifest's sha256; None where a file has no digest."""
        if self.pending:
            return None
        return self.cached or hashlib.sha256(text(self.digests)).hexdigest()


def take(
    files: Iterable[tuple[str, str | Path]],
    cache: Path | None = None,
    compute: bool = True,
    progress: Progress = SILENT,
) -> Inventory:
    """Return the inventory of (name, path) pairs, with digests from the `cache` file and, if `compute`, from the files.

    Without `compute` only those files are read whose cached digest is not trusted. Raise UnfitError for a file that is
    not there or cannot be read.
    """
    paths = dict(sorted((name, os.fspath(path)) for name, path in files))
    now = time.time_ns()
    status = _status(paths)
    trusted = np.maximum(status[:, 1], status[:, 2]) + RACY <= now
    digested, sums, doubtful, cached = _recall(cache, _joined(paths), status)
    todo = np.flatnonzero(~digested if compute else doubtful)
    inventory = Inventory(paths, status, sums, digested, "" if len(todo) else cached)
    if not len(todo):
        return inventory
    last, task = time.monotonic(), progress.task("digesting data", "files", delay=QUIET)
    try:
        for done, (rows, values) in enumerate(_computed(list(paths.values()), todo), 1):
            sums[rows], digested[rows] = values, True
            task.update(min(done * CHUNK, len(todo)), len(todo))
            if time.monotonic() - last > SAVE:
                _keep(cache, inventory, trusted, "")
                last = time.monotonic()
    finally:
        _keep(cache, inventory, trusted, inventory.digest or "" if not inventory.pending else "")
    return inventory


def _status(paths: Mapping[str, str]) -> NDArray[np.int64]:
    rows = np.empty((len(paths), 4), np.int64)
    for row, path in enumerate(paths.values()):
        try:
            state = os.stat(path)
        except OSError as error:
            raise refused(error, path) from error
        if not stat.S_ISREG(state.st_mode):
            raise UnfitError(f"{path}: is not a file; complete the data")
        rows[row] = state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino & (2**63 - 1)
    return rows


def _computed(paths: Sequence[str], todo: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Yield rows of files and their digests, in threads: hashlib and the disk wait without the interpreter's lock."""
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]

    def digests(rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return np.frombuffer(b"".join(_sum(paths[row]) for row in rows), np.uint8).reshape(-1, BYTES)

    if len(chunks) == 1:
        yield chunks[0], digests(chunks[0])
        return
    with ThreadPoolExecutor(min(len(chunks), max(4, os.cpu_count() or 1), 16)) as pool:
        try:
            yield from zip(chunks, pool.map(digests, chunks), strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nothing more is begun


def _sum(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(WHOLE)
            digest = hashlib.sha256(data)
            while data:
                data = file.read(WHOLE)
                digest.update(data)
    except OSError as error:
        raise refused(error, path) from error
    return digest.digest()


def _joined(names: Iterable[str]) -> bytes:
    return "\0".join(names).encode("utf-8", "surrogateescape")


def _recall(
    cache: Path | None, names: bytes, status: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.bool_], str]:
    """Return which have a digest (N,), digests (N, 32), cached but not trusted (N,), the manifest's if complete."""
    sums = np.zeros((len(status), BYTES), np.uint8)
    equal = trusted = np.zeros(len(status), bool)
    before = _load(cache)
    if before is None:
        return equal.copy(), sums, equal, ""
    if before.names == names:
        equal, trusted, sums = (before.status == status).all(1), before.trusted, before.sums.copy()
    elif before.names and names:
        row_of = {name: row for row, name in enumerate(before.names.split(b"\0"))}
        rows = np.array([row_of.get(name, -1) for name in names.split(b"\0")])
        equal = (rows >= 0) & (before.status[rows] == status).all(1)
        trusted, sums = before.trusted[rows], before.sums[rows]
    digested = equal & trusted
    whole = before.names == names and bool(digested.all())
    return digested, sums, equal & ~trusted, before.digest if whole else ""


def _load(cache: Path | None) -> Entries | None:
    if cache is None:
        return None
    try:
        with np.load(cache, allow_pickle=False) as saved:
            entries = Entries(
                saved["names"].tobytes(), saved["status"], saved["sums"], saved["trusted"], str(saved["digest"])
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    rows = entries.names.count(b"\0") + 1 if entries.names else 0
    shapes = entries.status.shape, entries.sums.shape, entries.trusted.shape
    return entries if shapes == ((rows, 4), (rows, BYTES), (rows,)) else None


def _keep(cache: Path | None, inventory: Inventory, trusted: NDArray[np.bool_], digest: str) -> None:
    """Write the digests by rename; a folder that cannot be written caches nothing."""
    if cache is None:
        return
    digested = inventory.digested
    names = _joined(name for name, there in zip(inventory.paths, digested, strict=True) if there)
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary(cache)
        with partial.open("wb") as file:
            np.savez(
                file,
                names=np.frombuffer(names, np.uint8),
                status=inventory.status[digested],
                sums=inventory.sums[digested],
                trusted=trusted[digested],
                digest=np.array(digest),
            )
        partial.replace(cache)


def add_pixels(digest: "hashlib._Hash", name: str, pixels: NDArray[np.unsignedinteger[Any]]) -> None:
    """Add a decoded frame to a digest: its name, shape and values, however a file stores them."""
    digest.update(json.dumps([name, *pixels.shape]).encode())
    digest.update(np.ascontiguousarray(pixels).data)


def text(digests: Digests) -> bytes:
    """Return a manifest as `sha256sum` writes it, sorted by name; a name with a line break is escaped as there."""
    lines = []
    for name in sorted(digests):
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{'' if escaped == name else chr(92)}{digests[name]}  {escaped}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def parse(data: bytes) -> Digests:
    """Return the digests of a manifest's text. Raise ValueError for what is none."""
    digests = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        digest, _, name = line.lstrip("\\").partition("  ")
        if len(digest) != 2 * BYTES:
            raise ValueError(f"not a line of a manifest: {line[:80]!r}")
        if line.startswith("\\"):
            parts = [part.replace("\\n", "\n").replace("\\r", "\r") for part in name.split("\\\\")]
            name = "\\".join(parts)
        digests[name] = digest
    return digests


def write(path: Path, digests: Digests) -> None:
    """Write a manifest, compressed, by rename. Raise OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    partial.write_bytes(gzip.compress(text(digests), 3, mtime=0))
    partial.replace(path)


def read(path: Path) -> Digests | None:
    """Return a manifest's digests; None where there is none that can be read."""
    try:
        return parse(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, gzip.zlib.error):  # type: ignore[attr-defined]
        return None


@dataclass(frozen=True)
class Changes:
    """Names in which two manifests differ; `renamed` are new names of the same content."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.removed or self.renamed)

    def text(self, whole: str) -> str:
        """Return them in words: '24 masks of val, e.g. a/mask/1.png; 1 image of val added, e.g. …'."""
        parts = []
        for verb, names in (
            ("", self.changed),
            (" renamed", self.renamed),
            (" added", self.added),
            (" removed", self.removed),
        ):
            if names:
                parts.append(f"{counted(names)} of {whole}{verb}, e.g. {names[0]}")
        return "; ".join(parts)


def compare(before: Digests, now: Digests) -> Changes:
    """Return what has changed from one manifest to another."""
    removed = sorted(before.keys() - now.keys())
    gone: defaultdict[str, list[str]] = defaultdict(list)  # digest -> names
    for name in removed:
        gone[before[name]].append(name)
    added, renamed = [], []
    for name in sorted(now.keys() - before.keys()):
        if gone[now[name]]:
            gone[now[name]].pop()
            renamed.append(name)
        else:
            added.append(name)
    left = sorted(name for names in gone.values() for name in names)
    changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    return Changes(tuple(changed), tuple(added), tuple(left), tuple(renamed))


def counted(names: Iterable[str]) -> str:
    """Return '24 masks', or '2 images and 2 masks': files by the folders that they are in."""
    kinds = Counter(next((KINDS[part] for part in name.split("/") if part in KINDS), "file") for name in names)
    return " and ".join(plural(number, kind) for kind, number in sorted(kinds.items()))


def plural(number: int, noun: str) -> str:
    """Return '1 mask' or '2 masks'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def changed_since(inventory: Inventory, seconds: float, top: Path | None = None) -> list[str]:
    """Return the files, and the links and folders from `top` on, that have changed since a time (unix seconds).

    Whoever replaces a folder, or points a link elsewhere, changes no file: so those count too.
    """
    since = int(seconds * 10**9)
    newer = np.maximum(inventory.status[:, 1], inventory.status[:, 2]) > since
    names = [name for name, new in zip(inventory.paths, newer, strict=True) if new]
    limit = None if top is None else os.path.abspath(top)
    parents: set[str] = set() if limit is None else {limit}
    for path in inventory.paths.values():
        parent = os.path.dirname(os.path.abspath(path))
        while parent not in parents and (limit is None or parent.startswith(limit + os.sep)):
            parents.add(parent)
            if limit is None:
                break
            parent = os.path.dirname(parent)
    for path in (*inventory.paths.values(), *sorted(parents)):
        itself = os.lstat(path)
        link = stat.S_ISLNK(itself.st_mode)
        for status in (itself, os.stat(path)) if path in parents else (itself,) if link else ():
            if max(status.st_mtime_ns, status.st_ctime_ns) > since:
                names.append(path)
                break
    return names


def of_folder(folder: Path, cache: Path | None = None) -> Inventory:
    """Return the inventory of all files below a folder, by their paths in it. Raise UnfitError."""
    return take(
        (
            (os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/"), os.path.join(parent, name))
            for parent, _, names in os.walk(folder, followlinks=True)
            for name in names
            if not name.startswith(".")
        ),
        cache,
    )


def seal(directory: Path) -> None:
    """Write down which masks a finished job has left, where it has left any. Raise OSError, UnfitError."""
    if (directory / "masks").is_dir():
        write(directory / SEAL, of_folder(directory / "masks").digests)


def broken_seal(directory: Path, cache: Path | None = None) -> Changes:
    """Return what has changed in a job's masks since it ended; nothing where that was not written down (0.1)."""
    before = read(directory / SEAL)
    return Changes() if before is None else compare(before, of_folder(directory / "masks", cache).digests)
