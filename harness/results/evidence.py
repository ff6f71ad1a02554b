"""Evidence that a report shows beside its numbers: loss curves, the memory M, and the provenance of each job.

Small and plain, so that it travels as one JSON beside the report and a reviewer has it from MLflow alone.

Shapes: K classes, C channels, T snapshots of M.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.atomic_files import JsonObject

POINTS = 200  # of a curve at most
CPU = re.compile(r"cpu|x86_64|amd64|i\d86|aarch64|arm\w*|ppc\w*|riscv\w*|s390x", re.IGNORECASE)


@dataclass(frozen=True)
class Memory:
    """M of one training: how alike its classes are at the end, and how far it was from its end on the way there."""

    label: str
    decoder: str
    seed: int
    similarity: tuple[tuple[float | None, ...], ...]  # (K, K), cosine; None for a class that was never seen
    steps: tuple[int, ...] = ()  # (T,)
    drift: tuple[float | None, ...] = ()  # (T,), mean over classes of 1 - cos(M_t, M_end)


@dataclass(frozen=True)
class Curve:
    """One training's losses and its mIoU on the way."""

    label: str
    decoder: str
    seed: int
    steps: tuple[int, ...]
    loss: tuple[float, ...]  # total: with auxiliary and coarse terms
    main: tuple[float, ...] = ()  # cross entropy of the logits that are evaluated; empty where it was not logged
    scores: tuple[tuple[int, float], ...] = ()  # (step, mIoU in percent)
    split: str = ""  # of the scores


@dataclass(frozen=True)
class Compute:
    """Cost of some jobs."""

    device_hours: float  # ranks × wall time; a pass that several evaluations share is shared out
    devices: tuple[str, ...]
    peak: int | None = None  # bytes of a rank: of the GPU's memory, or of a process's without one

    @property
    def unit(self) -> str:
        """'GPU-hours', 'CPU-hours', or 'device-hours' of both."""
        kinds = {"CPU" if CPU.fullmatch(device) else "GPU" for device in self.devices}
        return f"{kinds.pop() if len(kinds) == 1 else 'device'}-hours"


def device_seconds(job: Mapping[str, Any]) -> float | None:
    """Return the ranks' seconds that a job's provenance says, its share of a launch of several evaluations."""
    seconds = job.get("seconds")
    return None if seconds is None else seconds * (job.get("world") or 1) / max(1, len(job.get("launch") or ()))


def compute(jobs: Sequence[Mapping[str, Any]]) -> Compute | None:
    """Return the cost of jobs by their provenance; None where none says its seconds."""
    seconds = [time for job in jobs if (time := device_seconds(job)) is not None]
    if not seconds:
        return None
    devices = tuple(dict.fromkeys(str(job["device"]) for job in jobs if job.get("device")))
    peaks = [int(job["peak"]) for job in jobs if job.get("peak")]
    return Compute(sum(seconds) / 3600, devices, max(peaks, default=None))


@dataclass(frozen=True)
class FrameCost:
    """What a row's frame takes with all windows, views, members and stages, over its seeds. None: not known."""

    parameters: int | None = None
    flops: int | None = None  # of a frame
    frames_per_second: float | None = None  # mean over seeds, on one rank
    peak: int | None = None  # bytes of a rank, the most of a seed; rows of one pass share it
    devices: tuple[str, ...] = ()


def frame_cost(jobs: Sequence[Mapping[str, Any]]) -> FrameCost:
    """Return the cost of one row's frame by the provenance of its evaluations."""
    costs = [job["cost"] for job in jobs if job.get("cost")]
    if not costs:
        return FrameCost()
    paces = [cost["frames"] / cost["seconds"] for cost in costs if cost["seconds"]]
    return FrameCost(
        parameters=int(costs[0]["parameters"]),
        flops=int(costs[0]["flops"]),
        frames_per_second=float(np.mean(paces)) if paces else None,
        peak=max((int(job["peak"]) for job in jobs if job.get("peak")), default=None),
        devices=tuple(dict.fromkeys(str(job["device"]) for job in jobs if job.get("device"))),
    )


@dataclass(frozen=True)
class Evidence:
    """All of it for one experiment; whatever could not be had is empty."""

    classes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    memories: tuple[Memory, ...] = ()
    jobs: tuple[JsonObject, ...] = ()  # provenance, one a job: name, seconds, device, …
    data: Mapping[str, str | None] = field(default_factory=dict)  # split -> digest; None: made, not read
    panels: tuple[JsonObject, ...] = ()  # file, title, alt, classes: pictures in the folder panels/
    command: str = ""  # that ran it
    total_hours: float | None = None  # device-hours of all jobs of the output directory
    undone: Mapping[str, Mapping[str, str | None]] = field(
        default_factory=dict
    )  # a cell's config hash -> status, reason
    changed: Mapping[str, str] = field(default_factory=dict)  # config hash of a cell -> sources changed since it ran
    settings: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict
    )  # a cell's name -> what of its configuration differs from another cell's

    def to_json(self) -> JsonObject:
        """Return what evidence.json holds."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, content: JsonObject) -> "Evidence":
        """Return the inverse of `to_json`. Raise KeyError, TypeError or ValueError for anything else."""
        if content["schema"] != 1:
            raise ValueError(f"evidence of schema {content['schema']}")

        def tuples(value: Any) -> Any:
            return tuple(map(tuples, value)) if isinstance(value, list) else value

        def each(kind: type, rows: Sequence[JsonObject]) -> tuple[Any, ...]:
            return tuple(kind(**{key: tuples(value) for key, value in row.items()}) for row in rows)

        return cls(
            classes=tuple(map(str, content["classes"])),
            curves=each(Curve, content["curves"]),
            memories=each(Memory, content["memories"]),
            jobs=tuple(dict(job) for job in content["jobs"]),
            data=dict(content["data"]),
            panels=tuple(dict(panel) for panel in content["panels"]),
            command=str(content["command"]),
            total_hours=content.get("total_hours"),
            undone={config_hash: dict(why) for config_hash, why in content.get("undone", {}).items()},
            changed=dict(content.get("changed", {})),
            settings={cell: dict(values) for cell, values in content.get("settings", {}).items()},
        )


def thin(points: Sequence[Any], most: int = POINTS) -> list[Any]:
    """Return at most so many, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[index] for index in np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]


def similarity(memory: NDArray[Any]) -> tuple[tuple[float | None, ...], ...]:
    """Return the cosine between every two rows of M (K, C); rows of nan stand for classes never seen.  # (K, K)"""
    rows = unit(memory)
    return tuple(tuple(rounded(value) for value in row) for row in (rows @ rows.T).tolist())


def drift(memory: NDArray[Any], end: NDArray[Any]) -> float | None:
    """Return how far M is from its end: mean over classes seen by both of 1 - cosine."""
    distance = 1 - (unit(memory) * unit(end)).sum(axis=1)
    finite = distance[np.isfinite(distance)]
    return rounded(float(finite.mean())) if finite.size else None


def unit(memory: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rows at length 1; a row of zeros or nan becomes nan.  # (K, C)"""
    rows = memory.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit_rows: NDArray[np.float64] = np.divide(rows, length, out=np.full_like(rows, np.nan), where=length > 0)
    return unit_rows


def rounded(value: float) -> float | None:
    """Return Four decimals; None for what is no number."""
    return round(value, 4) if np.isfinite(value) else None
