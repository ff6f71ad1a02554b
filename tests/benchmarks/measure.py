"""How benchmarks are timed, and what a row of their table holds."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Row:
    """One line of the table: `ratio` is what `unit` says, `low` and `high` the bounds it should keep.

    `also` is a further target in words, and whether it was met.
    """

    name: str
    setting: str  # the sizes
    ours: str
    reference: str  # the reference form by name, and its figure
    ratio: float
    unit: str = "times as fast"
    low: float | None = None
    high: float | None = None
    also: tuple[str, bool] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio keeps its bounds; None where it has none."""
        kept = [self.ratio >= self.low] if self.low is not None else []
        kept += [self.ratio <= self.high] if self.high is not None else []
        kept += [self.also[1]] if self.also is not None else []
        return all(kept) if kept else None

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        words = [f"at least {self.low:.3g}" if self.low is not None else ""]
        words.append(f"at most {self.high:.3g}" if self.high is not None else "")
        words.append(self.also[0] if self.also is not None else "")
        return ", ".join(filter(None, words))

    @property
    def judged(self) -> str:
        """One word on it."""
        return {True: "met", False: "missed", None: ""}[self.met]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "met": self.met}


class Measure:
    """Seconds by one clock, medians of `repeats` runs."""

    def __init__(self, repeats: int = 5, clock: str = "wall") -> None:
        self.repeats, self.clock = repeats, CLOCKS[clock]

    def seconds(self, *forms: Callable[[], Any], most: int | None = None, warm: bool = True) -> list[float]:
        """The median of each form; they run in turns, at most `most` times, after one run each if `warm`."""
        for form in forms if warm else ():
            form()
        times: list[list[float]] = [[] for _ in forms]
        for _ in range(min(self.repeats, most or self.repeats)):
            for form, taken in zip(forms, times, strict=True):
                begun = self.clock()
                form()
                taken.append(self.clock() - begun)
        return [statistics.median(taken) for taken in times]


def peak_of(form: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that the process held before a form, and at its peak while it ran; Linux.

    A process's peak never falls by itself, so it is reset first (`/proc/self/clear_refs`).
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is freed but kept would hide growth
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    form()
    return before, _status("VmHWM")


def extra_memory(form: Callable[[], Any]) -> int:
    """Bytes by which a form raises the process's peak above what was held before it."""
    form()  # libraries take their own workspaces at the first run
    before, peak = peak_of(form)
    return max(0, peak - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def shown(seconds: float) -> str:
    """'3.21 s' or '12.3 ms'."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def sizes(**values: Any) -> str:
    """'B=2, C=512'."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
