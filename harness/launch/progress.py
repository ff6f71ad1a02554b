"""Live progress on stderr: bars in a terminal, a line now and then elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.launch.supervisor import Progress as JobProgress
from harness.plan.job import Job, Train

log = logging.getLogger(__name__)

QUIET = 5.0  # seconds between two lines where there is no terminal
SHOWN = {"train/loss": "loss {:.3f}", "loss": "loss {:.3f}", "time/iterations_per_second": "{:.1f} it/s"}


@contextmanager
def counter(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function that shows `done` of `total` on stderr: a bar in a terminal, else a line now and then."""
    console = Console(stderr=True)
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET or done == total:
            last = time.monotonic()
            log.info(f"{done}/{total} {unit}")

    if not console.is_terminal:
        yield tell
        return
    with Progress(BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Display:
    """Shows jobs as they go: a context manager, so that the cursor is given back; lines only, where none enters it."""

    def __init__(self, every: float = QUIET) -> None:
        self.every = every  # seconds between two lines of a job where there is no terminal
        self.console = Console(stderr=True)
        self.bars: Progress | None = None
        self._tasks: dict[Job, TaskID] = {}
        self._last: dict[Job, float] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bars = Progress(*columns, TextColumn("{task.fields[said]}"), console=self.console)
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def show(self, progress: JobProgress, heading: str = "") -> None:
        """Take a job's progress in; `heading`, in front of the job's name, says what it is run for."""
        replay = progress.replay
        name = f"{heading}: {progress.job.name}" if heading else progress.job.name
        said = "  ".join(form.format(replay.values[key]) for key, form in SHOWN.items() if key in replay.values)
        for message in replay.messages:
            line = f"{name}: {message}"
            if self.bars is None:
                log.info(line)
            else:
                self.console.print(line, markup=False, highlight=False)
        replay.messages.clear()
        if not replay.steps:
            return
        if self.bars is not None:
            if progress.job not in self._tasks:
                self._tasks[progress.job] = self.bars.add_task(name, said="")
            self.bars.update(self._tasks[progress.job], completed=replay.step, total=replay.steps, said=said)
            return
        now, done = time.monotonic(), replay.step >= replay.steps
        if not done and now - self._last.get(progress.job, 0.0) < self.every:
            return
        if done and self._last.get(progress.job) == float("inf"):
            return
        self._last[progress.job] = float("inf") if done else now
        unit = "iterations" if isinstance(progress.job, Train) else "videos"
        log.info(f"{name}: {replay.step}/{replay.steps} {unit}  {said}".rstrip())
