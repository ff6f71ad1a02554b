"""The way a signal stops us: the same in every phase, whatever code it finds us in."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PREEMPTED = 75  # exit code of whoever a signal has stopped: run the same command again
AGAIN = 0.01  # seconds until a signal that was lost is sent again
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def taken() -> list[signal.Signals]:
    """Return the signals that stop us; not SIGHUP where it is ignored, as nohup has it."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in NUMBERS if number != signal.SIGHUP or not ignored]


class Stopped(BaseException):
    """A signal asked to stop; `status` is 'cancelled' (Ctrl-C) or 'preempted'.

    No Exception: a library that the signal finds at work (MLflow's HTTP client, for one) would take it for its own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.status = "cancelled" if number == signal.SIGINT else "preempted"


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn Ctrl-C and a scheduler's signals into Stopped, in the main thread.

    A signal that finds Python in a callback of its own (of a weak reference, __del__), where exceptions are lost, is
    sent again.
    """
    lost = _Lost(sys.unraisablehook)
    before = {number: signal.signal(number, _stop) for number in taken()}
    sys.unraisablehook = lost.note
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)  # those that came while a Slurm job's Python started
        yield
    finally:
        try:
            lost.end()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.unraisablehook = lost.others
    if lost.stopped is not None:
        raise lost.stopped


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(number)


class _Lost:
    """Signals whose Stopped was raised where Python ignores exceptions; `others` is the hook for all other errors."""

    def __init__(self, others: Callable[["sys.UnraisableHookArgs"], object]) -> None:
        self.others = others
        self.stopped: Stopped | None = None  # lost, and not sent again yet
        self._sender: threading.Timer | None = None

    def note(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Send a lost signal again, once Python has left the callback."""
        if not isinstance(unraisable.exc_value, Stopped):
            self.others(unraisable)
            return
        self.stopped = unraisable.exc_value
        self._sender = threading.Timer(AGAIN, self._send)
        self._sender.start()

    def _send(self) -> None:
        stopped, self.stopped = self.stopped, None
        if stopped is not None:
            signal.pthread_kill(threading.main_thread().ident or 0, stopped.number)

    def end(self) -> None:
        """Send nothing from now on."""
        if self._sender is not None:
            self._sender.cancel()
            self._sender.join()
