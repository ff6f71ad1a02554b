import os
import signal
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from harness.common.signals import Stopped, stop_signals


class Referent:
    pass


def in_a_callback(act: Callable[[], None]) -> None:
    """Do something where Python ignores exceptions: in the callback of a weak reference."""
    thing = Referent()
    reference = weakref.ref(thing, lambda _: act())
    del thing
    assert reference() is None


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.001)  # Python's handler runs here


def lose_a_signal_and_wait() -> None:
    in_a_callback(interrupt)
    for _ in range(1000):
        time.sleep(0.01)


def test_a_signal_in_a_callback_stops_us_a_moment_later() -> None:
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, stop_signals():
        lose_a_signal_and_wait()
    assert (stopped.value.number, stopped.value.status) == (signal.SIGTERM, "preempted")
    assert (sys.unraisablehook, signal.getsignal(signal.SIGTERM)) == (hook, handler)


def test_one_in_a_callback_at_the_end_of_the_block_is_not_forgotten() -> None:
    with pytest.raises(Stopped), stop_signals():
        in_a_callback(interrupt)


def test_other_errors_in_callbacks_are_shown_as_ever() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    seen = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: seen.append(unraisable.exc_type)
    try:
        with stop_signals():
            in_a_callback(fail)
    finally:
        sys.unraisablehook = hook
    assert seen == [ZeroDivisionError]
