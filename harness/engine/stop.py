"""Signals to and from a rank at work: the signal to stop, its parent's death, and a beat for whoever watches.

Imports no torch: a signal that comes while torch is being imported must be kept, not die of it.
"""

import faulthandler
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import IO

from harness.common import parent
from harness.common.signals import PREEMPTED, taken

BEATS = 20  # a beat each twentieth of the time after which a silent rank counts as stalled


class Stopped(Exception):
    """Work was broken off because a signal asked for it; `status` is what to call it."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Stop:
    """The flag that signals set: SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 mean preempted, SIGINT cancelled.

    While `idle` there is no work to save, and a signal ends the process at once.
    """

    def __init__(self) -> None:
        self.status: str | None = None
        self.idle = False
        self._owner = os.getpid()
        self._stall, self._told = 0.0, 0.0
        self._stacks: IO[str] | None = None

    def install(self) -> None:
        """Take the signals over; call in the main thread."""
        for number in taken():
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked data worker: the rank it works for saves, and then ends it
        self.status = self.status or ("cancelled" if number == signal.SIGINT else "preempted")
        if self.idle:
            raise SystemExit(PREEMPTED)

    def watch(self, path: Path, seconds: float) -> None:
        """Let every `beat` touch the file; after `seconds` without one all threads' stacks are written to it.

        A watchdog in C does that, so it works for a rank that hangs in a collective or with the interpreter locked.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stall, self._stacks = seconds, path.open("w")
        self._told = 0.0
        self.beat()

    def unwatch(self) -> None:
        """End the watch; an empty file is taken away."""
        if self._stacks is None:
            return
        faulthandler.cancel_dump_traceback_later()
        path = Path(self._stacks.name)
        self._stacks.close()
        self._stacks = None
        if path.exists() and path.stat().st_size == 0:
            path.unlink()

    def beat(self) -> None:
        """Note a step of work. Ends an orphan at once, where the kernel has not (parent.die_with_parent)."""
        if parent.orphaned():
            os._exit(1)
        now = time.monotonic()
        if self._stacks is not None and now - self._told >= self._stall / BEATS:
            self._told = now
            os.utime(self._stacks.fileno())
            faulthandler.dump_traceback_later(self._stall, file=self._stacks)

    def check(self) -> None:
        """Beat; raise Stopped if a signal has come."""
        self.beat()
        if self.status is not None:
            raise Stopped(self.status)
