"""What an experiment's file is written with: cells, and the jobs whose numbers fill them.

An experiment is one file under experiments/ with a docstring (question, expected numbers, cost, command), the literals
TITLE and REPORT (a file of reports/), and `cells(config) -> list[Cell]`, called once for every seed.
"""

from dataclasses import dataclass

from harness.core.config import Config
from harness.core.job import Evaluate, Train

__all__ = ["Cell", "Config", "Evaluate", "Train"]


@dataclass(frozen=True)
class Cell:
    """One row of a table for one seed."""

    name: str  # also the key of the paper's number in core/paper.py
    method: str  # as the table prints it
    job: Evaluate
    over: str | None = None  # the cell that the gain is measured over
