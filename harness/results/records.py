"""What a finished job leaves: its outcome, its provenance, and for an evaluation what it counted of every video.

Shapes: V videos, K classes.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.jobdir.paths import JobDir
from harness.results import metrics

STAGE = ("pixels", "moved", "windows", "exited")  # what an evaluation counts against the stage before
OF_CONFUSION: Mapping[str, Callable[[NDArray[np.int64]], float]] = {
    "miou": metrics.miou,
    "miou_nanmean": metrics.miou_nanmean,
    "fwiou": metrics.fwiou,
    "accuracy": metrics.accuracy,
    "mean_accuracy": metrics.mean_accuracy,
}


def joined(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation's provenance, the last of `found`, with that of its trainings: what differs stands side by side."""
    whole = dict(found[-1])
    for key in ("commit", "device"):
        if several := beside(made.get(key) for made in found):
            whole[key] = several
    dirty = [made["dirty"] for made in found if made.get("dirty") is not None]
    if dirty:
        whole["dirty"] = any(dirty)
    versions = [made["versions"] for made in found if made.get("versions")]
    names = dict.fromkeys(name for one in versions for name in one)
    whole["versions"] = {name: beside(one.get(name) for one in versions) for name in names}
    return whole


def beside(values: Iterable[Any]) -> str:
    """Distinct values in a row; empty where none is known."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


@dataclass(frozen=True)
class RunRecord:
    """A finished evaluation, however it was read: from a root's files or from MLflow."""

    fingerprint: str
    videos: Mapping[str, NDArray[np.int64]]  # name -> (K, K), rows are the truth
    provenance: Mapping[str, Any]
    run_id: str | None = None
    stage: Mapping[str, int] = field(default_factory=dict)  # over all videos; empty without a stage before
    vc: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # name -> totals of `metrics.Consistency`

    @property
    def labelled(self) -> bool:
        """Whether there was any truth to count against."""
        return bool(self.confusion.any())

    @property
    def moved(self) -> float | None:
        """Pixels whose class is another than at the stage before, in percent; None without one."""
        return self._percent("moved", "pixels")

    @property
    def exited(self) -> float | None:
        """Windows whose P said what the stage before's had said, in percent; None where they were not counted."""
        return self._percent("exited", "windows")

    def _percent(self, part: str, whole: str) -> float | None:
        known = part in self.stage and self.stage.get(whole)
        return 100 * self.stage[part] / self.stage[whole] if known else None

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Over all videos.  # (K, K)"""
        return np.sum(list(self.videos.values()), axis=0, dtype=np.int64)

    @property
    def final(self) -> dict[str, float]:
        """The numbers of the tables by name, in percent; one that is not known is left out.

        Without truth those that need none; no video consistency of evaluations made before it was counted.
        """
        of_stage = {"moved": self.moved, "exited": self.exited}
        found = {key: value for key, value in of_stage.items() if value is not None}
        if not self.labelled:
            return found
        confusion = self.confusion
        scores = {name: 100 * function(confusion) for name, function in OF_CONFUSION.items()}
        if self.vc.keys() >= self.videos.keys():
            scores |= {name: 100 * value for name, value in metrics.consistency(self.vc.values()).items()}
        return {**scores, **found}


def read_evaluation(directory: Path) -> RunRecord:
    """A finished evaluation from its directory."""
    videos, stages, vc = {}, [], {}
    for path in JobDir(directory).video_files():
        with np.load(path, allow_pickle=False) as saved:
            videos[path.stem] = saved["confusion"]
            stages.append({key: int(saved[key]) for key in STAGE if key in saved})
            if "vc" in saved:
                vc[path.stem] = saved["vc"]
    counted = [key for key in STAGE if stages and all(key in one for one in stages)]  # older files lack them
    stage = {key: sum(one[key] for one in stages) for key in counted}
    return RunRecord(directory.name, videos, provenance(directory), stage=stage, vc=vc)


def packed(found: RunRecord) -> bytes:
    """All counts in one compressed file: names (V,), confusion (V, K, K), vc (V, ...) where all have it, a stage's."""
    buffer = io.BytesIO()
    names = list(found.videos)
    whole = {"vc": np.stack([found.vc[name] for name in names])} if found.vc.keys() >= set(names) else {}
    whole |= {f"stage_{key}": np.array(number) for key, number in found.stage.items()}
    matrices = np.stack(list(found.videos.values()))
    np.savez_compressed(buffer, names=np.array(names), confusion=matrices, **whole)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpacked(data: bytes, run_id: str) -> RunRecord:
    """The inverse of `packed`, as MLflow's run `run_id` holds it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as saved:
        names = saved["names"].tolist()
        vc = dict(zip(names, saved["vc"], strict=True)) if "vc" in saved else {}
        stage = {key: int(saved[f"stage_{key}"]) for key in STAGE if f"stage_{key}" in saved}
        return RunRecord(run_id, dict(zip(names, saved["confusion"], strict=True)), {}, run_id, stage, vc)


def provenance(directory: Path) -> dict[str, Any]:
    """How a job was run: commit, versions, device, seconds."""
    files = JobDir(directory)
    outcome = files.outcome()
    if outcome is None:
        return {**files.how(), "seconds": None}
    return {**files.how(), **(outcome.provenance or {}), "seconds": outcome.seconds}
