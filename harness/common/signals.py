"""The way a signal stops us: the same in every phase, whatever code it finds us in."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PREEMPTED = 75  # exit code of whoever a signal has stopped: run the same command again
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
    """Turn Ctrl-C and a scheduler's signals into Stopped, in the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in taken()}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)  # those that came while a Slurm job's Python started
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
