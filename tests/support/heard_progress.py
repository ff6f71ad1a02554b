"""Progress that a test hears of."""

from collections.abc import Callable
from typing import Any

from harness.common.progress import Progress, Task


class Heard(Progress):
    """Hands `done` and `total` of every task to a function."""

    def __init__(self, hear: Callable[[int, int], None]) -> None:
        super().__init__()
        self.hear = hear

    def task(self, *arguments: Any, **options: Any) -> Task:
        task = super().task(*arguments, **options)
        task.update = lambda done, total, note="": self.hear(done, total)  # type: ignore[method-assign]
        return task
