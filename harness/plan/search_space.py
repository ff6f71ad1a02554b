"""The parts of a search's file: the axes of its space, and names of a sampler and a pruner, as values.

A search is one file under experiments/searches/ with a docstring (question, cost, command) and the names that
plan/study.py lists. Nothing here knows what samples it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.config.compose import Config
from harness.plan.job import Evaluate, Train

Params = Mapping[str, Any]  # values of a space's keys

__all__ = ["Choice", "Config", "Evaluate", "Named", "Train", "Uniform", "Whole"]


@dataclass(frozen=True)
class Uniform:
    """A number from `low` to `high`, both included; `log`: uniform in its logarithm."""

    low: float
    high: float
    log: bool = False
    label: str = ""  # what a trial's name calls it: "m" makes "m=0.031"

    def check(self, key: str) -> None:
        """Raise UsageError for a range that holds nothing."""
        if self.log and self.low <= 0:
            raise UsageError(f"{key}: a logarithmic range must be above 0, not [{self.low:g}, {self.high:g}]")
        if not self.low < self.high < float("inf"):
            raise UsageError(f"{key}: [{self.low:g}, {self.high:g}] is not a range")

    def holds(self, value: Any) -> bool:
        """Return whether a value can be drawn."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def description(self) -> str:
        """Return the axis for people, and to compare by."""
        return f"{'log-' if self.log else ''}uniform in [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Whole(Uniform):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def holds(self, value: Any) -> bool:
        """Return whether a value can be drawn."""
        return isinstance(value, int) and super().holds(value)

    def description(self) -> str:
        """Return the axis for people, and to compare by."""
        return f"whole, {super().description()}"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    options: tuple[Any, ...]
    label: str = ""

    def check(self, key: str) -> None:
        """Raise UsageError where there is nothing to choose."""
        if len(set(self.options)) < 2:
            raise UsageError(f"{key}: {list(self.options)} leaves no choice")

    def holds(self, value: Any) -> bool:
        """Return whether a value can be drawn."""
        return value in self.options

    def description(self) -> str:
        """Return the axis for people, and to compare by."""
        return f"one of {', '.join(map(str, self.options))}"


Axis = Uniform | Choice


@dataclass(frozen=True)
class Named:
    """A sampler or a pruner by its name, with options."""

    name: str
    options: JsonObject = field(default_factory=dict)
