"""Locks between processes that share a folder: whoever waits is told for whom; without them where there are none."""

import errno
import fcntl
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.common.errors import UnfitError
from harness.common.machine import user

log = logging.getLogger(__name__)

TELL = 8.0  # seconds of waiting after which a person is told
PATIENCE = 600.0  # seconds after which the wait is given up
AGAIN = 0.05  # seconds between two tries
ABSENT = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # file systems without flock


class Lock(threading.local):
    """A lock of the kernel's, which a process that is killed gives back. The file names its holder.

    Reentrant in a thread; other threads of the process wait like other processes.
    """

    def __init__(self, path: str | Path, patience: float = PATIENCE, tell: float = TELL) -> None:
        self.path, self.patience, self.tell = Path(path), patience, tell
        self._file: int | None = None
        self._depth = 0

    @property
    def is_locked(self) -> bool:
        """Whether this process is inside it."""
        return self._depth > 0

    def __enter__(self) -> Self:
        if not self._depth:
            self._file = self._acquired()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth and self._file is not None:
            os.close(self._file)  # which gives it back
            self._file = None

    def _acquired(self) -> int | None:
        """Wait for it; return the open file, None where the file system has no locks. Raise UnfitError, OSError."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            begun, announced = time.monotonic(), False
            while not self._tried(file):
                waited = time.monotonic() - begun
                if waited >= self.patience:
                    raise UnfitError(
                        f"{self.path}: {self.holder()} has not released it within {self.patience:.0f} s; wait for "
                        "that process or end it, then rerun the same command"
                    )
                if waited >= self.tell and not announced:
                    announced = True
                    log.info(f"waiting for {self.path}, which {self.holder()} has; at most {self.patience:.0f} s")
                time.sleep(AGAIN)
            os.ftruncate(file, 0)
            os.write(file, us().encode())
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError) and error.errno in ABSENT:
                log.warning(
                    f"{self.path}: no file locks on this file system ({error.strerror}); two runs may repeat work"
                )
                return None
            raise
        return file

    def _tried(self, file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def holder(self) -> str:
        """Return who has the lock, or had it last."""
        try:
            return self.path.read_text() or "another process"
        except (OSError, ValueError):
            return "another process"


def us() -> str:
    """Return this process for people."""
    return f"{user()}'s run on {socket.gethostname()} (process {os.getpid()})"
