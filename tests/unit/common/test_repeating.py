"""Something done again and again beside other work."""

import threading
import time

import pytest

from harness.common.repeating import repeated


def test_it_is_done_until_the_block_ends() -> None:
    times: list[float] = []
    threads = threading.active_count()
    begun = time.monotonic()

    def action() -> bool:
        times.append(time.monotonic())
        return False

    def fail() -> None:
        while len(times) < 3:
            time.sleep(0.01)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), repeated(action, 0.02):
        fail()
    number = len(times)
    assert times[0] - begun >= 0.02
    time.sleep(0.1)
    assert len(times) == number
    assert threading.active_count() == threads


def test_it_ends_once_it_says_so() -> None:
    calls: list[int] = []
    with repeated(lambda: calls.append(1) or len(calls) == 2, 0.01):
        time.sleep(0.2)
    assert len(calls) == 2
