"""A job's diary: one JSON object a line, time-stamped, flushed at once; ranks write it, the supervisor reads it.

A process may die while it writes. So a reader keeps what is not yet a whole line for later, a line that is no JSON is
passed over, and a new writer ends a line that an earlier one left open.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Journal:
    """Appends events to one file; `allowed` raises where the writer has no right to it any more."""

    def __init__(self, path: Path, allowed: Callable[[], None] = lambda: None) -> None:
        self.path, self._allowed = path, allowed
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.stat().st_size > 0 and not _ends_line(path)
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the time in unix seconds; it is on its way to disk when this returns."""
        self._allowed()
        self._file.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Flush for good; a closed journal writes no more."""
        self._file.close()


def read(path: Path, offset: int = 0, size: int = -1) -> tuple[list[dict[str, Any]], int]:
    """Whole events among `size` bytes (-1: all) from `offset` on, and where to go on; a file not yet there has none."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read(size)
    whole = text[: text.rfind(b"\n") + 1]  # what follows the last newline is still being written
    return [event for line in whole.splitlines() if (event := _parse(line)) is not None], offset + len(whole)


def spent(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds between a job's begin and last event, added over its attempts."""
    total, begun = 0.0, None
    for event, after in zip(events, [*events[1:], None], strict=True):
        if event["event"] == "begin":
            begun = event["time"]
        if begun is not None and (after is None or after["event"] == "begin"):
            total += event["time"] - begun
    return total


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # torn by a death; UnicodeDecodeError is one too
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
