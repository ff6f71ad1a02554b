"""What a training writes: checkpoints on the way, and its weights at the end. No state that is worthless is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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


def save(folder: Path, trainer: "Trainer", step: int, reporter: Reporter) -> None:
    """Write a checkpoint, by the first rank. Raise HarnessError for a state that must not be kept."""
    check(trainer, step)
    if trainer.rank.first:
        checkpoint.save(JobDir(folder).checkpoints, step, trainer.state(), jobs.ours(folder, trainer.job))
        snapshots.memory(folder, trainer.model, step)
        reporter.checkpoint(step)


def check(trainer: "Trainer", step: int) -> None:
    """Raise HarnessError where the ranks' memories have come apart, or the state is not finite."""
    if not distributed.same(getattr(trainer.model.decoder, "memory", None)):
        raise HarnessError(f"the ranks have different memories at iteration {step}: this is a bug, discard this run")
    if wild := trainer.wild():
        raise HarnessError(
            f"the state is not finite at iteration {step}: {', '.join(wild[:5])}; it is not saved; the last checkpoint "
            "remains valid; lower train.lr or use precision=fp32"
        )


def finish(folder: Path, trainer: "Trainer", classes: Sequence[str], reporter: Reporter, end: int) -> None:
    """Write the weights, M among them, by the first rank; checkpoints are not needed any more. Raises as `save`."""
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
