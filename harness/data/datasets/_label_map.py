"""From what a mask stores to labels: numbers or colours by a map of names, panoptic ids by division.

    {"7": road, "11-13": building, "0-6": null}     numbers, ranges of them; null is void
    {"128,64,128": road, "0,0,0": null}             colours, red, green, blue

Shapes: H × W pixels.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UsageError
from harness.data.contract import Label, label_type, void

HIGHEST = 65535  # number that a mask can store
KEY = "data.folder.label_map"


class LabelMap:
    """What stands for which of K classes. Raises UsageError for a map that is none.

    Without a map, number `first` + k is class k; numbers before `first`, 255 and void(K) are void.
    """

    def __init__(self, label_map: Mapping[str, str | None], names: Sequence[str], first: int = 0) -> None:
        spans = {key: span(key) for key in label_map}
        self.colours = bool(spans) and isinstance(next(iter(spans.values())), int)
        if any(isinstance(value, int) != self.colours for value in spans.values()):
            raise UsageError(f"{KEY}: contains both numbers and colours; use only one of them")
        lowest = {key: value if isinstance(value, int) else value[0] for key, value in spans.items()}
        order = [name for key in sorted(lowest, key=lambda key: lowest[key]) if (name := label_map[key]) is not None]
        self.classes = tuple(names) or tuple(dict.fromkeys(order))
        unknown = [name for name in order if name not in self.classes]
        if unknown:
            raise UsageError(f"{KEY}: {unknown[0]!r} is not in data.folder.classes; add it there, or remove that key")
        unused = [name for name in self.classes if order and name not in order]
        if unused:
            raise UsageError(f"data.folder.classes: nothing in {KEY} maps to {unused[0]!r}")
        self.void = void(len(self.classes))
        self.type = label_type(len(self.classes))
        index = {name: number for number, name in enumerate(self.classes)}
        self._stored: list[tuple[int, int]] = []  # stored number or colour, label
        for key, value in spans.items():
            name = label_map[key]
            label = self.void if name is None else index[name]
            start, last = (value, value) if isinstance(value, int) else value
            self._stored += [(number, label) for number in range(start, last + 1)]
        twice = [number for number, times in Counter(number for number, _ in self._stored).items() if times > 1]
        if twice:
            raise UsageError(f"{KEY}: {written(twice[0]) if self.colours else twice[0]} occurs twice")
        if not spans:
            end = first + len(self.classes)
            self._stored = [(first + label, label) for label in range(len(self.classes))]
            self._stored += [
                (number, self.void) for number in {*range(first), 255, self.void} if not first <= number < end
            ]
            if end > HIGHEST + 1:
                raise UsageError(f"data.folder.first={first}: the last class would have the number {end - 1}")
        self._stored.sort()

    def numbers(self, mask: NDArray[np.integer]) -> tuple[Label, Counter[int]]:
        """Return the labels of stored numbers (H, W), and the pixels of each number that stands for nothing."""
        table = np.full(HIGHEST + 1, self.void, self.type)
        clean = np.zeros(HIGHEST + 1, bool)
        stored, labels = np.array(self._stored).T
        table[stored], clean[stored] = labels, True
        unclear = ~clean[mask]
        if not unclear.any():
            return table[mask], Counter()
        values, times = np.unique(mask[unclear], return_counts=True)
        return table[mask], Counter(dict(zip(values.tolist(), times.tolist(), strict=True)))

    def of_colours(self, mask: NDArray[np.uint8]) -> tuple[Label, Counter[str]]:
        """Return the labels of colours (H, W, 3), and the pixels of each colour that stands for nothing."""
        red, green, blue = np.moveaxis(mask.astype(np.int32), 2, 0)
        colour = (red << 16) + (green << 8) + blue  # (H, W)
        stored, labels = np.array(self._stored).T
        row = np.searchsorted(stored, colour).clip(max=len(stored) - 1)
        clear = stored[row] == colour
        label = np.where(clear, labels[row], self.void).astype(self.type)
        if clear.all():
            return label, Counter()
        values, times = np.unique(colour[~clear], return_counts=True)
        return label, Counter(dict(zip(map(written, values.tolist()), times.tolist(), strict=True)))


def span(key: str) -> tuple[int, int] | int:
    """Return the numbers, first and last, that a key of the map stands for, or the colour as one number."""
    if match := re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", key):
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last <= HIGHEST:
            return first, last
    if match := re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", key):
        red, green, blue = (int(number) for number in match.groups())
        if max(red, green, blue) <= 255:
            return (red << 16) + (green << 8) + blue
    raise UsageError(f"{KEY}: {key!r} is not a number (7), a range (0-6) or a colour (128,64,128)")


def written(colour: int) -> str:
    """Return a colour as the map has it."""
    return f"{colour >> 16},{colour >> 8 & 255},{colour & 255}"
