"""The journal of a training, and how often it is written."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.engine import jobs
from harness.engine.runtime import Rank
from harness.jobdir.events import Checkpoint, Journal, Log, Metrics, Progress
from harness.jobdir.replay import ITERATIONS_PER_SECOND, LOSS, LOSS_TOTAL

PROGRESS_EVERY = 0.5  # seconds


class Reporter:
    """The journal of a training on the first rank; silent on the others."""

    def __init__(self, folder: Path, rank: Rank, log_every: int, allowed: Callable[[], None] = lambda: None) -> None:
        self._folder, self._rank, self._every, self._allowed = folder, rank, log_every, allowed
        self._journal: Journal | None = None
        self._messages: list[str] = []
        self._told = 0.0  # when progress was last written
        self._mark = (0, 0.0)  # step and time of the last metrics

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self._journal.close()

    def begin(self, step: int, steps: int) -> None:
        """Note that training is at `step` of `steps`: metrics of later steps in the journal are void."""
        if self._rank.first:
            self._journal = jobs.begin(self._folder, self._rank, step, steps, "iterations", self._allowed)
        self._mark = (step, time.monotonic())
        for message in self._messages:
            self.log(message)

    def log(self, message: str) -> None:
        """Log a line for people; one that comes before `begin` is kept until then."""
        if self._journal is None:
            self._messages.append(message)
        else:
            self._journal.write(Log(message=message))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Note values after `step` iterations: metrics every log_every of them, progress at most every half second."""
        if self._journal is None:
            return
        named = {f"train/{name}": value for name, value in values.items()}
        now = time.monotonic()
        if step % self._every == 0:
            (before, then), self._mark = self._mark, (step, now)
            rate = (step - before) / max(now - then, 1e-9)
            total = {LOSS_TOTAL: named[LOSS]} if LOSS in named else {}
            self._journal.write(Metrics(step=step, values={**named, **total, ITERATIONS_PER_SECOND: rate}))
        if now - self._told >= PROGRESS_EVERY:
            self._told = now
            self._journal.write(Progress(step=step, values=named))

    def intermediate(self, step: int, split: str, miou: float | None) -> None:
        """Note the mIoU of an evaluation after `step` iterations; None if it was broken off."""
        if self._journal is not None and miou is not None:
            self._journal.write(Metrics(step=step, values={f"{split}/miou": miou}))

    def checkpoint(self, step: int, seconds: float | None = None) -> None:
        """Note that a checkpoint, which took some seconds, covers everything up to `step`."""
        if self._journal is not None:
            self._journal.write(Checkpoint(step=step, seconds=seconds))
