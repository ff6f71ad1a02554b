"""Evidence that a report shows beside its numbers: loss curves, the memory M, and the provenance of each job.

Small and plain, so that it travels as one JSON beside the report and a reviewer has it from MLflow alone.

Shapes: K classes, C channels, T snapshots of M.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.atomic_files import JsonObject

POINTS = 200  # of a curve at most


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
    """One training's loss."""

    label: str
    decoder: str
    seed: int
    steps: tuple[int, ...]
    loss: tuple[float, ...]


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
    undone: Mapping[str, Mapping[str, str | None]] = field(
        default_factory=dict
    )  # config hash of a cell -> status, reason
    changed: Mapping[str, str] = field(default_factory=dict)  # config hash of a cell -> sources changed since it ran

    def to_json(self) -> JsonObject:
        """As evidence.json holds it."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, content: JsonObject) -> "Evidence":
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
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
            undone={config_hash: dict(why) for config_hash, why in content.get("undone", {}).items()},
            changed=dict(content.get("changed", {})),
        )


def thin(points: Sequence[Any], most: int = POINTS) -> list[Any]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[index] for index in np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]


def similarity(memory: NDArray[Any]) -> tuple[tuple[float | None, ...], ...]:
    """Cosine between every two rows of M (K, C); rows of nan stand for classes never seen.  # (K, K)"""
    rows = unit(memory)
    return tuple(tuple(rounded(value) for value in row) for row in (rows @ rows.T).tolist())


def drift(memory: NDArray[Any], end: NDArray[Any]) -> float | None:
    """Return how far M is from its end: mean over classes seen by both of 1 - cosine."""
    distance = 1 - (unit(memory) * unit(end)).sum(axis=1)
    finite = distance[np.isfinite(distance)]
    return rounded(float(finite.mean())) if finite.size else None


def unit(memory: NDArray[Any]) -> NDArray[np.float64]:
    """Rows at length 1; a row of zeros or nan becomes nan.  # (K, C)"""
    rows = memory.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit_rows: NDArray[np.float64] = np.divide(rows, length, out=np.full_like(rows, np.nan), where=length > 0)
    return unit_rows


def rounded(value: float) -> float | None:
    """Four decimals; None for what is no number."""
    return round(value, 4) if np.isfinite(value) else None
