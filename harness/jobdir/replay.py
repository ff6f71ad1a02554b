"""What a job's journal comes to for a tracking store: points that are final, and how far the job is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.jobdir import events as journal

Point = tuple[str, float, int, int]  # key, value, step, unix milliseconds


class Curve:
    """Exactly once: a metric is given out with the checkpoint that covers it, since MLflow cannot delete a point."""

    def __init__(self, committed: int = -1) -> None:
        self.pending: list[Point] = []
        self.committed = committed  # the last step given out

    def hear(self, events: Sequence[Mapping[str, Any]]) -> list[Point]:
        """The points that have become final."""
        final: list[Point] = []
        for event in events:
            if event["event"] == "begin":  # what the attempt before measured after its checkpoint is void
                self.pending = [point for point in self.pending if point[2] <= event["step"]]
            elif event["event"] == "metrics" and event["step"] > self.committed:
                when = round(1000 * event["time"])
                self.pending += [(key, value, event["step"], when) for key, value in event["values"].items()]
            elif event["event"] == "checkpoint" or (event["event"] == "end" and event.get("status") == "finished"):
                step = event.get("step", float("inf"))
                final += [point for point in self.pending if point[2] <= step]
                self.pending = [point for point in self.pending if point[2] > step]
                self.committed = max([self.committed, *(point[2] for point in final)])
        return final


@dataclass
class Pulse:
    """How far a job is, as its run's tags tell it."""

    step: int = 0
    steps: int = 0
    loss: float | None = None
    start: tuple[float, int] = (0.0, 0)  # unix seconds and step of the attempt's begin
    now: float = 0.0  # unix seconds of the last event
    told: float = float("-inf")  # monotonic seconds

    def hear(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Take a journal's events in."""
        for event in events:
            self.now = event["time"]
            if event["event"] == "begin":
                self.steps, self.start = event["steps"], (event["time"], event["step"])
            if event["event"] in ("begin", "progress", "metrics"):
                self.step = event["step"]
            self.loss = (event.get("values") or {}).get("train/loss", self.loss)

    @property
    def tags(self) -> dict[str, str]:
        """Step, loss, seconds to go at the attempt's mean rate, and when this was."""
        began, first = self.start
        known = self.step > first and self.now > began
        left = (self.steps - self.step) * (self.now - began) / (self.step - first) if known else None
        return {
            "harness.step": f"{self.step}/{self.steps}",
            "harness.loss": "" if self.loss is None else f"{self.loss:.4f}",
            "harness.eta_seconds": "" if left is None else f"{left:.0f}",
            "harness.heartbeat": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now)),
        }


@dataclass
class Samples:
    """What a job's nodes have measured of their GPUs, as far as it was read."""

    folder: Path  # of the job
    offsets: dict[str, int] = field(default_factory=dict)  # node -> bytes

    def read(self, size: int = -1) -> list[Point]:
        """Points that have come since, of at most `size` bytes a node (-1: all).

        "system/<node>/<what>" are the names that MLflow has for its system metrics.
        """
        points: list[Point] = []
        for path in sorted(system(self.folder).glob("*.jsonl")):
            events, self.offsets[path.stem] = journal.read(path, self.offsets.get(path.stem, 0), size)
            for event in events:
                when = round(1000 * event["time"])
                points += [
                    (f"system/{path.stem}/{key}", value, event["step"], when) for key, value in event["values"].items()
                ]
        return points


def system(folder: Path) -> Path:
    """Where a job's nodes leave their samples."""
    return folder / "system"
