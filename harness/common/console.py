"""Results on stdout; what the harness logs, as plain lines on stderr. A reader who has left ends nothing."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from harness.common.redaction import redact


def never_refuse() -> None:
    """Let stdout and stderr write what their encoding has not, as \\x, \\u or \\U and its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None: it was closed before we started
            stream.reconfigure(errors="backslashreplace")


def out(text: str = "") -> None:
    """Print a result on stdout. Raise OSError if it cannot be written, unless its reader has left (`… | head`)."""
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        _mute(sys.stdout)


class StderrHandler(logging.Handler):
    """Print records as plain lines on stderr, without passwords; a training goes on if nobody can read them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        text = redact(self.format(record))
        try:
            _write(sys.stderr, text)
        except UnicodeEncodeError:
            _write(sys.stderr, text.encode("ascii", "backslashreplace").decode())
        except OSError:
            _mute(sys.stderr)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Print what the harness logs while this lasts; also a decorator, for the entry of a process."""
    logger, handler = logging.getLogger("harness"), StderrHandler()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # libraries may give the root logger a handler of its own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # None: it was closed before we started
        print(text, file=stream, flush=True)


def _mute(stream: TextIO) -> None:
    """Let what is still to come, and what waits in the buffer, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
