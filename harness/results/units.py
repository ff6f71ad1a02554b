"""A number of one evaluation over its units (videos, or the recordings they were cut from): what intervals are made of.

Shapes: U units.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from harness.results.metric import Floats, Metric
from harness.results.paper import count


class Sample(Protocol):
    """One number of one evaluation, over units."""

    @property
    def names(self) -> tuple[str, ...]:
        """The units, sorted."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the sums that it is taken from: two evaluations of other classes have no difference."""
        ...

    @property
    def value(self) -> float:
        """Over all units, 0..1; nan where there is nothing to take it from."""
        ...

    @property
    def shares(self) -> Floats:
        """What each unit moves it by, times U, by the jackknife; their mean is 0.  # (U,)"""
        ...

    @property
    def described(self) -> str:
        """The units in words."""
        ...


class Units:
    """What UnitSums and UnitTotals say of their units."""

    names: tuple[str, ...]
    videos: int
    recordings: bool

    @property
    def described(self) -> str:
        """'343 videos', '4 videos of 1 recording'."""
        made_of = f" of {count(len(self.names), 'recording')}" if self.recordings else ""
        return count(self.videos, "video") + made_of


@dataclass(frozen=True, eq=False)
class UnitTotals(Units):
    """The sums of one metric of one evaluation, by unit."""

    names: tuple[str, ...]  # U units, sorted
    sums: Floats  # (U, ...)
    videos: int
    recordings: bool  # whether a unit is more than the video itself
    metric: Metric

    @cached_property
    def total(self) -> Floats:
        """Return the sums over all units.  # (...)"""
        total: Floats = self.sums.sum(axis=0)
        return total

    @cached_property
    def values(self) -> Mapping[str, float]:
        """Return the metric's numbers over all units, 0..1."""
        return self.metric.values(self.total)

    @cached_property
    def without(self) -> Mapping[str, Floats]:
        """Return each number without each of the units.  # (U,)"""
        each = [self.metric.values(self.total - sums) for sums in self.sums]
        return {number: np.array([values[number] for values in each]) for number in self.metric.names}

    def number(self, name: str) -> "UnitNumber":
        """Return one of the numbers."""
        return UnitNumber(self, name)


@dataclass(frozen=True)
class UnitNumber:
    """One number of a metric: a Sample."""

    of: UnitTotals
    number: str

    @property
    def names(self) -> tuple[str, ...]:
        """The units."""
        return self.of.names

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the sums."""
        return self.of.sums.shape

    @property
    def described(self) -> str:
        """The units in words."""
        return self.of.described

    @property
    def value(self) -> float:
        """Over all units."""
        return self.of.values[self.number]

    @property
    def shares(self) -> Floats:
        """By the jackknife.  # (U,)"""
        return jackknife(self.of.without[self.number])


def jackknife(without: Floats) -> Floats:
    """Return what each unit moves a number by, times U, from the number without each; their mean is 0.  # (U,)"""
    shares: Floats = (len(without) - 1) * (without.mean() - without)
    return shares


def unit_totals(videos: Mapping[str, Floats], unit_of: Mapping[str, str], metric: Metric) -> UnitTotals:
    """Add a metric's sums by video up by unit. Raise ValueError where they are of different shapes."""
    if len({sums.shape for sums in videos.values()}) > 1:
        raise ValueError("a metric's sums are of different shapes")
    names = sorted({unit_of[video] for video in videos})
    row_of = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(names), *next(iter(videos.values())).shape))
    for video in sorted(videos):
        sums[row_of[unit_of[video]]] += videos[video]
    return UnitTotals(tuple(names), sums, len(videos), any(unit_of[video] != video for video in videos), metric)
