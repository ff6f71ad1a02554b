"""Start of our child processes, and their answers: nothing of the working directory must hide our modules."""

import locale
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

SAFE = {  # for those that they start themselves, as torchrun does its ranks
    "PYTHONSAFEPATH": "1",
    "PYTHONUTF8": "1",
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}
# A signal that comes while Python starts would kill it: it is kept until harness.common.signals takes it.
KEEP_SIGNALS = (
    "import os, signal, sys; "
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def in_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale has another encoding: our files are UTF-8."""
    if locale.getpreferredencoding(False).lower().replace("-", "") != "utf8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def python(*words: str) -> list[str]:
    """Return the command of this Python with these words, which imports nothing from the working directory."""
    return [sys.executable, "-P", *words]


def program(module: str, *words: str) -> list[str]:
    """Return the command that calls the main() of one of our modules, its imports quick (harness.common.start)."""
    return python("-m", "harness.common.start", module, *words)


@contextmanager
def answer() -> Iterator[TextIO]:
    """Yield the real stdout of a child process; what libraries print meanwhile goes to stderr."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        out.write("\n")  # what a sitecustomize has printed before is on lines of its own
        yield out


def last_line(stdout: str) -> str:
    """Return a child's answer: the last line, since a sitecustomize may print before it."""
    return stdout.rstrip("\n").rpartition("\n")[2]
