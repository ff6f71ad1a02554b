"""What a training writes: checkpoints on the way, and its weights at the end. No state that is worthless is kept."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from harness.common.errors import HarnessError
from harness.engine import checkpoint, distributed, jobs, snapshots
from harness.engine.reporter import Reporter
from harness.jobdir.paths import JobDir

if TYPE_CHECKING:
    from harness.engine.train import Trainer


def through(folder: Path, reporter: Reporter) -> bool:
    """Return whether the weights are written; damaged ones are told of and made again."""
    path = JobDir(folder).weights_file
    whole = checkpoint.whole(path)
    if path.exists() and not whole:
        reporter.log(f"{path.name} does not match its checksum; it is written again")
    return whole


class Checkpoints:
    """Checkpoints of a training by the first rank: the state is copied to memory, and written while training goes on.

    One is written at a time; it counts once it has its name, as if it had been written at once. All are written when
    the block ends. What goes wrong in writing is raised by whatever is called next.
    """

    def __init__(self, folder: Path, trainer: "Trainer", reporter: Reporter) -> None:
        self._folder, self._trainer, self._reporter = folder, trainer, reporter
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[int, Future[float]] | None = None  # step -> seconds
        self._last = -1  # step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._writer, suppress(Exception) if error is not None else nullcontext():
            self.wait()

    def save(self, step: int) -> None:
        """Begin to write a checkpoint, once a step. Raise HarnessError for a state that must not be kept."""
        if step == self._last:
            return
        self._last = step
        check(self._trainer, step)
        if self._trainer.rank.first:
            self.wait()
            begun = time.monotonic()
            state = checkpoint.copied(self._trainer.state())
            allowed = jobs.ours(self._folder, self._trainer.job)

            def write() -> float:
                checkpoint.save(JobDir(self._folder).checkpoints, step, state, allowed)
                return time.monotonic() - begun

            self._writing = step, self._writer.submit(write)
            snapshots.memory(self._folder, self._trainer.model, step)

    def look(self) -> None:
        """Tell the journal of a checkpoint that has been written by now."""
        if self._writing is not None and self._writing[1].done():
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint at hand is written, and tell the journal."""
        if self._writing is not None:
            (step, written), self._writing = self._writing, None
            try:
                seconds = written.result()
            finally:
                del written  # else an error would hold itself by this frame, and the half-written file open
            self._reporter.checkpoint(step, seconds)


def check(trainer: "Trainer", step: int) -> None:
    """Raise HarnessError where the ranks' memories have come apart, or the state is not finite."""
    if not distributed.same(getattr(trainer.model.decoder, "memory", None)):
        raise HarnessError(f"the ranks have different memories at iteration {step}: this is a bug, discard this run")
    if bad := not_finite(trainer):
        raise HarnessError(
            f"the state is not finite at iteration {step}: {', '.join(bad[:5])}; it is not saved; the last checkpoint "
            "remains valid; lower train.lr or use precision=fp32"
        )


def not_finite(trainer: "Trainer") -> list[str]:
    """Return the parts of the state that are not finite; a buffer may hold infinities, as masks do."""
    moments = ((key, value) for state in trainer.optimizer.state.values() for key, value in state.items())
    fine = chain(
        ((name, all_of(torch.isfinite, value)) for name, value in trainer.model.named_parameters()),
        ((name, all_of(not_nan, value)) for name, value in trainer.model.named_buffers()),
        ((f"AdamW's {key}", all_of(torch.isfinite, value)) for key, value in moments),
    )
    return list(dict.fromkeys(name for name, good in fine if not good))


def all_of(good: Callable[[Tensor], Tensor], value: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite, or at least not nan, as `good` tells elementwise.

    A sum is good only if all its terms are, and needs no copy; a sum that is not may have overflowed.
    """
    return bool(good(value.sum())) or bool(good(value).all())


def not_nan(value: Tensor) -> Tensor:
    """Return which numbers are not nan."""
    return ~value.isnan()


def finish(folder: Path, trainer: "Trainer", classes: Sequence[str], reporter: Reporter, end: int) -> None:
    """Write the weights, M among them, by the first rank; checkpoints are not needed any more. Raises as `check`."""
    check(trainer, end)
    if trainer.rank.first:
        jobs.ours(folder, trainer.job)()
        snapshots.memory(folder, trainer.model, end)
        checkpoint.save_weights(
            JobDir(folder).weights_file,
            trainer.kept,
            trainer.job.fingerprint,
            classes,
            jobs.ours(folder, trainer.job),
        )
        reporter.checkpoint(end)
        checkpoint.clear(JobDir(folder).checkpoints)
    distributed.agree(0)  # what comes next in the launch may read the weights
