"""A job's journal: one event a line, as JSON, time-stamped, flushed at once; ranks write it, the supervisor reads it.

A process may die while it writes. So a reader keeps what is not yet a whole line for later, a line that is no event is
passed over, and a new writer ends a line that an earlier one left open.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TypeAlias, get_args


@dataclass(frozen=True, kw_only=True)
class Stamped:
    """When an event happened, in unix seconds."""

    time: float = field(default_factory=lambda: time.time())


@dataclass(frozen=True, kw_only=True)
class Begin(Stamped):
    """An attempt begins after `step` of `steps`: what the attempt before measured later is void."""

    attempt: int | None = None  # from 1
    step: int
    steps: int
    unit: str | None = None  # iterations | videos
    host: str | None = None
    device: str | None = None
    threads: int | None = None
    world: int | None = None  # ranks
    versions: Mapping[str, str] | None = None  # of packages


@dataclass(frozen=True, kw_only=True)
class Loaded(Stamped):
    """An evaluation's models are loaded."""


@dataclass(frozen=True, kw_only=True)
class Progress(Stamped):
    """The job's step and last measurements, every half second or every video."""

    step: int
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metrics(Stamped):
    """Values after `step` iterations that become points of a curve."""

    step: int
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Stamped):
    """A checkpoint covers everything up to `step`; later steps may have been told of while it was written."""

    step: int
    seconds: float | None = None  # from when it was due until it had its name


@dataclass(frozen=True, kw_only=True)
class Log(Stamped):
    """A line for people."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Peak(Stamped):
    """Most memory that the attempt's first rank had in use."""

    bytes: int


@dataclass(frozen=True, kw_only=True)
class End(Stamped):
    """The attempt has ended, in a word of plan/outcome.py."""

    status: str | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample(Stamped):
    """A node's GPUs, the `step`-th time; in system/<node>.jsonl."""

    step: int
    values: Mapping[str, float] = field(default_factory=dict)


Event: TypeAlias = Begin | Loaded | Progress | Metrics | Checkpoint | Log | Peak | End | Sample
KINDS: Mapping[str, type[Event]] = {kind.__name__.lower(): kind for kind in get_args(Event)}


class Journal:
    """Appends events to one file; `allowed` raises where the writer has no right to it any more."""

    def __init__(self, path: Path, allowed: Callable[[], None] = lambda: None) -> None:
        self.path, self._allowed = path, allowed
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.stat().st_size > 0 and not _ends_line(path)
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def write(self, event: Event) -> None:
        """Append an event; it is on its way to disk when this returns."""
        self._allowed()
        self._file.write(line(event) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Flush for good; a closed journal writes no more."""
        self._file.close()


def line(event: Event) -> str:
    """Return an event as JSON; a field that is None is left out."""
    values = {key: value for key, value in vars(event).items() if value is not None}
    return json.dumps({"event": type(event).__name__.lower(), **values})


def parse_event(text: bytes | str) -> Event | None:
    """Return the event of a line, None for a torn line, an unknown event and one that lacks a field it must have.

    Unknown fields are ignored, and null counts as absent.
    """
    try:
        content = json.loads(text)
    except ValueError:  # torn by a death; UnicodeDecodeError is one too
        return None
    kind = KINDS.get(str(content.get("event"))) if isinstance(content, dict) else None
    if kind is None:
        return None
    optional, required = _names(content["event"])
    values = {name: content[name] for name in optional | required if content.get(name) is not None}
    return kind(**values) if required <= values.keys() else None


def read_events(path: Path, offset: int = 0, size: int = -1) -> tuple[list[Event], int]:
    """Return whole events among `size` bytes (-1: all) from `offset` on, and the next offset; none without a file."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read(size)
    whole = text[: text.rfind(b"\n") + 1]  # what follows the last newline is still being written
    return [event for part in whole.splitlines() if (event := parse_event(part)) is not None], offset + len(whole)


@cache
def _names(event: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the fields that a line may lack, and those that it must have."""
    kind = KINDS[event]
    required = {item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING}
    return frozenset(item.name for item in fields(kind)) - required, frozenset({"time", *required})


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
