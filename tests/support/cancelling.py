"""What tests of `harness cancel` share: work that ends at a signal only, and a cancellation that comes later."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.launch.cancel import Cancellation


class Slow:
    """A launcher at work until a signal comes."""

    log = Path("none.log")

    def __init__(self) -> None:
        self.signals: list[int] = []

    def start(self, directories: list[Path]) -> None:
        pass

    def running(self) -> bool:
        return not self.signals

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def close(self) -> None:
        pass


class Later(threading.Thread):
    """A cancellation in a thread of its own, once a root has a file that matches `condition`."""

    def __init__(self, root: Path, condition: str, cancel: Callable[[], Sequence[Cancellation]]) -> None:
        super().__init__(daemon=True)
        self.root, self.condition, self._cancel = root, condition, cancel
        self.results: list[Cancellation] = []

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while not list(self.root.glob(self.condition)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.results = list(self._cancel())
