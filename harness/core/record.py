"""What a finished job leaves: its outcome, its provenance, and for an evaluation one confusion matrix a video."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core import metrics
from harness.core.plan import read_json


@dataclass(frozen=True)
class RunRecord:
    """A finished evaluation, however it was read: from a root's files or from MLflow."""

    fingerprint: str
    videos: Mapping[str, NDArray[np.int64]]  # name -> (K, K), rows are the truth
    provenance: Mapping[str, Any]
    run_id: str | None = None

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Over all videos.  # (K, K)"""
        return np.sum(list(self.videos.values()), axis=0, dtype=np.int64)

    @property
    def final(self) -> dict[str, float]:
        """The numbers of the table, in percent."""
        confusion = self.confusion
        return {
            "miou": 100 * metrics.miou(confusion),
            "miou_nanmean": 100 * metrics.miou_nanmean(confusion),
            "fwiou": 100 * metrics.fwiou(confusion),
            "accuracy": 100 * metrics.accuracy(confusion),
        }


def read_evaluation(directory: Path) -> RunRecord:
    """A finished evaluation from its directory."""
    videos = {}
    for path in sorted((directory / "videos").glob("*.npz")):
        with np.load(path, allow_pickle=False) as saved:
            videos[path.stem] = saved["confusion"]
    return RunRecord(directory.name, videos, provenance(directory))


def provenance(directory: Path) -> dict[str, Any]:
    """How a job was run: commit, versions, device, seconds."""
    outcome = read_json(directory / "outcome.json")
    how = read_json(directory / "how.json")
    return {**how, **outcome.get("provenance", {}), "seconds": outcome.get("seconds")}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON file by rename, so that a reader sees all of it or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
