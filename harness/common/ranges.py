"""Ranges of numeric options: intervals in the metadata of dataclass fields, checked in one way.

    momentum: float = field(default=0.9, metadata={"range": "[0, 1]"})

A square bracket includes its end, a round one leaves it out; `inf` is no end. None is always allowed.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

from harness.common.errors import UsageError

INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; each end belongs to it where its bracket is square."""

    low: float
    high: float
    closed: tuple[bool, bool]
    notation: str

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        above = value >= self.low if self.closed[0] else value > self.low
        below = value <= self.high if self.closed[1] else value < self.high
        return above and below  # nan is in no range

    @property
    def rule(self) -> str:
        """The range in words: 'must be at least 1'."""
        if self.high < math.inf:
            return f"must be in {self.notation}"
        return f"must be a finite number, {'at least' if self.closed[0] else 'above'} {self.low:g}"


def parse(notation: object) -> Range:
    """Return the range of '[0, 1)'. Raise ValueError for another notation or an empty range."""
    match = INTERVAL.fullmatch(str(notation).strip())
    if match is None:
        raise ValueError(f"range {notation!r} is not an interval such as '[0, 1]', '(0, 1)' or '[1, inf)'")
    low, high = float(match[2]), float(match[3])
    if not low <= high:
        raise ValueError(f"range {notation!r} is empty")
    return Range(low, high, (match[1] == "[", match[4] == "]"), match[0])


def of(field: "Field[Any]") -> Range | None:
    """Return a field's range; None without one. Raise ValueError where its notation is wrong."""
    notation = field.metadata.get("range")
    return None if notation is None else parse(notation)


def violations(config: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield 'key=value: must be in …' for every value of a dataclass, nested ones included, outside of its range."""
    for field in fields(config):
        value, allowed = values.get(field.name), of(field)
        if is_dataclass(field.type) and isinstance(field.type, type) and isinstance(value, Mapping):
            yield from violations(field.type, value, f"{prefix}{field.name}.")
        elif allowed is not None:
            numbers = value if isinstance(value, tuple | list) else (value,)
            if any(number is not None and number not in allowed for number in numbers):
                yield f"{prefix}{field.name}={value}: {allowed.rule}"


def check(config: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UsageError for the first value outside of its range."""
    for violation in violations(config, values, prefix):
        raise UsageError(violation)
