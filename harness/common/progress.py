"""Progress of long work on stderr: bars in a terminal, a line now and then elsewhere."""

import copy
import logging
import time
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

log = logging.getLogger(__name__)

QUIET = 5.0  # seconds between a task's first two lines; each later pause is twice as long, up to LONGEST
LONGEST = 60.0


class Progress:
    """Tasks under way: lines only, or, as a context manager in a terminal, bars."""

    def __init__(self, every: float = QUIET) -> None:
        self.every = every  # seconds between a task's first two lines
        self.heading = ""
        self._bars: Bars | None = None
        self._tasks: dict[Hashable, Task] = {}

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        if console.is_terminal:
            text = [TextColumn(f"{{task.{name}}}") for name in ("description", "fields[unit]", "fields[note]")]
            columns = (text[0], BarColumn(), MofNCompleteColumn(), text[1], TimeRemainingColumn(), text[2])
            self._bars = Progress(*columns, console=console)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def headed(self, heading: str) -> Self:
        """Return the same with a heading in front of the tasks' names."""
        same = copy.copy(self)
        same.heading = heading
        return same

    def name(self, name: str) -> str:
        """Return a task's name under the heading."""
        return f"{self.heading}: {name}" if self.heading else name

    def task(self, name: str, unit: str, key: Hashable = None, delay: float = 0.0) -> "Task":
        """Return the task of that `key`, else of that name; its first line comes after `delay` seconds."""
        key = (self.name(name), unit) if key is None else key
        if key not in self._tasks:
            self._tasks[key] = Task(self.name(name), unit, self.every, delay, self._bars)
        return self._tasks[key]


class Task:
    """Work whose units are counted."""

    def __init__(self, name: str, unit: str, every: float, delay: float, bars: "Bars | None") -> None:
        self.name, self.unit, self._pause = name, unit, every
        self._next = time.monotonic() + delay
        self._finished = False
        self._bars = bars
        if bars is not None:
            self._bar = bars.add_task(name, total=None, unit="" if name else unit, note="")

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` units are done."""
        if self._bars is not None:
            self._bars.update(self._bar, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if self._finished or (done < total and now < self._next):
            return
        self._next, self._pause = now + self._pause, min(2 * self._pause, LONGEST)
        name = f"{self.name}: " if self.name else ""
        log.info(f"{name}{done}/{total} {self.unit}  {note}".rstrip())

    def finish(self) -> None:
        """Print no further line."""
        self._finished = True


class Silent(Progress):
    """Shows nothing."""

    def task(self, name: str, unit: str, key: Hashable = None, delay: float = 0.0) -> Task:
        """Return a task that is not shown."""
        task = super().task(name, unit, key, delay)
        task.finish()
        return task


SILENT = Silent()
