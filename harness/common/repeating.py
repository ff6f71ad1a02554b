"""Something done again and again in a thread of its own, while other work goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(action: Callable[[], bool], every: float) -> Iterator[None]:
    """Do `action` every so many seconds, first after that time, until it returns True or the block ends."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every) and not action():
            pass

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
