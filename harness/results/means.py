"""Means and standard deviations over seeds of the numbers that are there; plain values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None of nothing."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(numbers)) if numbers else None


def sd(values: Iterable[float | None]) -> float | None:
    """Return the sample standard deviation; None for fewer than two."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None


def of_all(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of the numbers that all seeds have, in the order of the first."""
    shared = [key for key in (seeds[0] if seeds else {}) if all(key in numbers for numbers in seeds)]
    return {key: float(np.mean([numbers[key] for numbers in seeds])) for key in shared}


def null(value: Any) -> Any:
    """Return a value as plain Python: numbers unboxed, every kind of missing as None."""
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
