"""A journal folded into what it comes to: how far the job is, its curves, the points that are final, seconds, memory.

This is the only reader of events' meaning: supervisor, status, MLflow, reports and costs look at a Replay.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.jobdir.events import (
    Begin,
    Checkpoint,
    End,
    Event,
    Loaded,
    Log,
    Metrics,
    Peak,
    Progress,
    Sample,
    read_events,
)
from harness.jobdir.paths import JobDir

Point = tuple[str, float, int, int]  # key, value, step, unix milliseconds
LOSS = "train/loss"  # weighted sum of the main, auxiliary and coarse cross entropies
LOSS_TOTAL = "train/loss_total"  # the same, by a name that says so
LOSS_MAIN = "train/loss_main"  # cross entropy of the logits that are evaluated
SCORE = "/miou"  # of a split, while training
ITERATIONS_PER_SECOND = "time/iterations_per_second"


@dataclass
class Replay:
    """The state of a job after the events that were heard; points up to step `committed` are not given out again."""

    committed: int = -1
    step: int = 0
    steps: int = 0
    unit: str = ""
    measured: int = 0  # step of the last values; a checkpoint may be of a later one
    values: dict[str, float] = field(default_factory=dict)  # the last of each key
    curves: dict[str, dict[int, float]] = field(
        default_factory=dict
    )  # losses and mIoU by step, as the attempts left them
    pending: list[Point] = field(default_factory=list)  # that no checkpoint covers yet
    messages: list[str] = field(default_factory=list)
    time: float | None = None  # unix seconds of the last event
    stepped: float = 0.0  # unix seconds of `step`
    pace: float = 0.0  # seconds a step, over the last two reports
    attempts: int = 0
    begin: Begin | None = None  # of the last attempt
    first: tuple[float, int] | None = None  # unix seconds and step where `rate` begins
    loaded: float | None = None  # unix seconds
    peak: int | None = None  # bytes, of all attempts
    ended: float = 0.0  # seconds of the attempts before the last

    @classmethod
    def of(cls, path: Path) -> "Replay":
        """Return the replay of a whole journal."""
        replay = cls()
        replay.hear(read_events(path)[0])
        return replay

    def hear(self, events: Iterable[Event]) -> list[Point]:
        """Fold events in; returns the points that have become final.

        A point is given out once, with the checkpoint that covers it, since MLflow cannot delete one.
        """
        final: list[Point] = []
        for event in events:
            match event:
                case Begin():
                    self._begin(event)
                case Progress() | Metrics():
                    self._measure(event)
                case Checkpoint():
                    if event.step >= self.step:  # else later steps are known already
                        self._reach(event.step, event.time)
                    final += self._commit(event.step)
                case End(status="finished"):
                    final += self._commit(event.step)
                case Log():
                    self.messages.append(event.message)
                case Loaded():
                    self.loaded = event.time
                case Peak():
                    self.peak = max(event.bytes, self.peak or 0)
            self.time = event.time
        return final

    def _begin(self, event: Begin) -> None:
        """Begin an attempt: what the one before measured after its checkpoint is void."""
        self.ended = self.seconds
        self.attempts, self.begin, self.first = self.attempts + 1, event, None
        self.steps, self.unit, self.measured = event.steps, event.unit or self.unit, event.step
        self.pending = [point for point in self.pending if point[2] <= event.step]
        self.curves = {
            key: {step: value for step, value in curve.items() if step <= event.step}
            for key, curve in self.curves.items()
        }
        self._reach(event.step, event.time)

    def _measure(self, event: Progress | Metrics) -> None:
        if event.step > self.step:
            self.pace = (event.time - self.stepped) / (event.step - self.step)
        self._reach(event.step, event.time)
        self.measured = event.step
        self.values.update(event.values)
        if isinstance(event, Metrics):
            for key, value in event.values.items():
                if key in (LOSS, LOSS_MAIN) or key.endswith(SCORE):
                    self.curves.setdefault(key, {})[event.step] = value
            if event.step > self.committed:
                self.pending += points(event)

    def _reach(self, step: int, time: float) -> None:
        self.step, self.stepped = step, time
        self.first = self.first or (time, step)

    def _commit(self, step: int | None) -> list[Point]:
        final = [point for point in self.pending if step is None or point[2] <= step]
        self.pending = [point for point in self.pending if step is not None and point[2] > step]
        self.committed = max([self.committed, *(point[2] for point in final)])
        return final

    @property
    def losses(self) -> dict[int, float]:
        """The total loss by step."""
        return self.curves.get(LOSS, {})

    @property
    def loss(self) -> float | None:
        """The last loss."""
        return self.values.get(LOSS)

    @property
    def seconds(self) -> float:
        """Seconds between begin and last event, added over the attempts."""
        return self.ended + (0.0 if self.begin is None or self.time is None else self.time - self.begin.time)

    @property
    def provenance(self) -> JsonObject:
        """Return what the last attempt ran on and with, as outcome.json has it."""
        names = ("device", "threads", "world", "versions")
        return {name: value for name in names if (value := getattr(self.begin, name, None)) is not None}

    @property
    def rate(self) -> float | None:
        """Steps a second of the last attempt, as far as it was heard; None where that cannot be said yet."""
        if self.first is None or self.stepped <= self.first[0] or self.step <= self.first[1]:
            return None
        return (self.step - self.first[1]) / (self.stepped - self.first[0])

    @property
    def remaining(self) -> float | None:
        """Seconds to go at `rate`."""
        return None if self.rate is None else (self.steps - self.step) / self.rate

    @property
    def eta(self) -> float | None:
        """Seconds to go by the last values, at the mean rate since the last begin."""
        if self.begin is None or self.time is None:
            return None
        done, elapsed = self.measured - self.begin.step, self.time - self.begin.time
        return (self.steps - self.measured) * elapsed / done if done > 0 and elapsed > 0 else None


def points(event: Metrics | Sample, prefix: str = "") -> list[Point]:
    """Return an event's values as points."""
    return [(prefix + key, value, event.step, round(1000 * event.time)) for key, value in event.values.items()]


def measurements(events: Iterable[Event], key: str) -> list[tuple[int, float]]:
    """Return step and value wherever a key was measured, in the journal's order."""
    return [(event.step, event.values[key]) for event in events if isinstance(event, Metrics) and key in event.values]


def tail(path: Path, size: int) -> Replay:
    """Return the replay of a long journal's first and last `size` bytes; its rate is that of the last."""
    replay = Replay()
    if not path.exists():
        return replay
    start = path.stat().st_size - size
    if start > 0:
        replay.hear(event for event in read_events(path, size=size)[0] if isinstance(event, Begin))
        replay.first = None
    replay.hear(read_events(path, max(0, start))[0])
    return replay


@dataclass
class Samples:
    """The measurements of a job's GPUs, as far as they were read."""

    folder: JobDir
    offsets: dict[str, int] = field(default_factory=dict)  # node -> bytes

    def read(self, size: int = -1) -> list[Point]:
        """Return the points that have come since, of at most `size` bytes a node (-1: all).

        "system/<node>/<what>" are the names that MLflow has for its system metrics.
        """
        measured: list[Point] = []
        for path in sorted(self.folder.system.glob("*.jsonl")):
            events, self.offsets[path.stem] = read_events(path, self.offsets.get(path.stem, 0), size)
            for event in events:
                if isinstance(event, Sample):
                    measured += points(event, f"system/{path.stem}/")
        return measured
