"""The order of a video's frames by their names, and the gaps in their numbering.

Where the names of a video differ in one number only, that number is the time: frame2 comes before frame10. All other
names are taken in the order of their characters: two numbers that change, a number after a decimal point, 1 beside 01.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise


def numbers(names: Sequence[str]) -> list[int] | None:
    """Return each name's number in which the names differ; None if they differ in several, or a number comes twice."""
    parts = [re.split("([0-9]+)", name) for name in names]  # text, number, text, …
    if len({len(part) for part in parts}) != 1:
        return None
    columns = [index for index, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    if len(columns) != 1 or columns[0] % 2 == 0:
        return None
    (at,) = columns
    if at > 1 and parts[0][at - 1] == ".":
        return None
    values = [int(part[at]) for part in parts]
    return values if len(set(values)) == len(values) else None


def in_time(names: Iterable[str]) -> list[str]:
    """Return the names in time."""
    ordered = sorted(names)
    if len({len(name) for name in ordered}) < 2:
        return ordered  # numbers of one length are in order
    values = numbers(ordered)
    return ordered if values is None else [name for _, name in sorted(zip(values, ordered, strict=True))]


def after_gaps(names: Sequence[str]) -> list[str]:
    """Return the names, given in time, before which at least one number is left out, by the video's usual step."""
    values = numbers(names)
    if values is None:
        return []
    steps = [later - earlier for earlier, later in pairwise(values)]
    times = Counter(steps)
    usual = min(times, key=lambda step: (-times[step], step))
    return [name for name, step in zip(names[1:], steps, strict=True) if step > 1.5 * usual]
