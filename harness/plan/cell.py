"""The parts of an experiment's file: cells, and the jobs whose numbers fill them.

An experiment is one file under experiments/ with a docstring (question, expected numbers, cost, command), the literals
TITLE and REPORT (a file of reports/), and `cells(config) -> list[Cell]`, called once for every seed.
"""

from dataclasses import dataclass, replace

from harness.config.compose import Config
from harness.plan.job import TRUTH, Evaluate, Train

__all__ = ["TRUTH", "Cell", "Config", "Evaluate", "Train", "stages"]


@dataclass(frozen=True)
class Cell:
    """One row of a table for one seed."""

    name: str  # also the key of the paper's number in results/paper.py
    method: str  # as the table prints it
    job: Evaluate
    over: str | None = None  # the cell that the gain is measured over
    label: str | None = None  # the row's name where `method` alone does not tell it from the others
    skip: str | None = None  # why it cannot be filled here; its job is not planned then


def stages(start: Evaluate, last: int) -> list[Evaluate]:
    """Return the stages 0 to `last` of an evaluation, each with the one before as its prior."""
    chain = [start]
    for _ in range(last):
        chain.append(replace(start, prior=chain[-1]))
    return chain
