"""The samples of an iteration, shared out over micro-batches and ranks."""

from collections.abc import Iterator
from typing import NamedTuple

from harness.common.errors import UnfitError
from harness.plan.spec import TrainSpec


class Plan(NamedTuple):
    """The samples of an iteration, shared out over micro-batches and ranks."""

    iterations: int
    batch: int
    micro_batch: int
    per_rank: int  # samples of a micro-batch on each rank

    @property
    def accumulation(self) -> int:
        """Micro-batches an iteration."""
        return self.batch // self.micro_batch


def plan(job: TrainSpec, world: int) -> Plan:
    """Return how a job's samples are shared out. Raise UnfitError where the batch cannot be shared out evenly."""
    batch = job.train.batch
    micro_batch = job.train.micro_batch or batch
    if batch % micro_batch:
        raise UnfitError(f"train.micro_batch={micro_batch}: must divide train.batch={batch}")
    if micro_batch % world:
        raise UnfitError(
            f"train.micro_batch={micro_batch} cannot be shared by {world} ranks; choose a --nproc that divides it"
        )
    return Plan(job.iterations, batch, micro_batch, micro_batch // world)


def positions(plan: Plan, rank: int, start: int) -> Iterator[list[int]]:
    """Yield the positions of this rank's samples in the training stream, by micro-batch, from iteration `start` on."""
    for iteration in range(start, plan.iterations):
        for micro in range(plan.accumulation):
            first = iteration * plan.batch + micro * plan.micro_batch + rank * plan.per_rank
            yield list(range(first, first + plan.per_rank))
