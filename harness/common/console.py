"""What people are told: results on stdout, the rest on stderr. A reader who has left ends nothing."""

import io
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from harness.common.redaction import redact


def never_refuse() -> None:
    """Let stdout and stderr write what their encoding has not, as \\x, \\u or \\U and its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None: it was closed before we started
            stream.reconfigure(errors="backslashreplace")


def out(text: str = "") -> None:
    """A result, on stdout. Raises OSError where it cannot be written, unless its reader has left (`… | head`)."""
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        _mute(sys.stdout)


def say(text: str = "") -> None:
    """A line for people, on stderr, without passwords; a training goes on if nobody can read it."""
    try:
        _write(sys.stderr, redact(text))
    except OSError:
        _mute(sys.stderr)


def lines(what: str, unit: str, every: float = 5.0) -> Callable[[int, int], None]:
    """Return a function that says 'WHAT: DONE/TOTAL UNIT' at the end, and every so many seconds before."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= every:
            last = time.monotonic()
            say(f"{what}: {done}/{total} {unit}")

    return show


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # None: it was closed before we started
        print(text, file=stream, flush=True)


def _mute(stream: TextIO) -> None:
    """Let what is still to come, and what waits in the buffer, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
