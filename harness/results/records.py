"""The files of a finished job: its outcome, its provenance, and for an evaluation the counts of every video.

Shapes: V videos, K classes.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.atomic_files import JsonObject, read_json
from harness.config import metrics as metric_plugins
from harness.config import plugins
from harness.config.compose import Config
from harness.jobdir.paths import JobDir
from harness.results import metrics
from harness.results.metric import Floats, Metric, counts_itself
from harness.results.units import UnitTotals, unit_totals

STAGE = ("pixels", "moved", "windows", "exited")  # what an evaluation counts against the stage before
OWN = "metric_"  # before the name of a metric in a video's file
MakeMetric = Callable[[int], Metric]  # from the number of classes


def chosen(config: Config) -> dict[str, MakeMetric]:
    """Return all metrics of a configuration by name, in the order of tables. Raise UsageError where one is unfit."""
    specs = metric_plugins.chosen(config)
    return {spec.name: maker(spec.name, spec.config, config.folders) for spec in specs}


def maker(name: str, options: Mapping[str, Any] | None = None, folders: plugins.Folders = ()) -> MakeMetric:
    """Return a function that makes a metric of so many classes."""
    module = metric_plugins.load(name, folders)

    def make(num_classes: int) -> Metric:
        metric: Metric = module.Metric(num_classes, module.Config(**(options or {})))
        return metric

    return make


def always() -> dict[str, MakeMetric]:
    """Return the metrics that every evaluation has."""
    return {name: maker(name) for name in metric_plugins.ALWAYS}


def joined(jobs: Sequence[Mapping[str, Any]]) -> JsonObject:
    """Return an evaluation's provenance, the last of `jobs`, with that of its trainings: what differs in a row."""
    whole = dict(jobs[-1])
    for key in ("commit", "device"):
        if several := beside(job.get(key) for job in jobs):
            whole[key] = several
    dirty = [job["dirty"] for job in jobs if job.get("dirty") is not None]
    if dirty:
        whole["dirty"] = any(dirty)
    versions = [job["versions"] for job in jobs if job.get("versions")]
    names = dict.fromkeys(name for each in versions for name in each)
    whole["versions"] = {name: beside(each.get(name) for each in versions) for name in names}
    return whole


def beside(values: Iterable[Any]) -> str:
    """Return the distinct values in a row; empty where none is known."""
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
    own: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)  # metric -> name -> its sums
    makers: Mapping[str, MakeMetric] = field(default_factory=always, repr=False, compare=False)

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
        total = self.stage.get(whole)
        return 100 * self.stage[part] / total if part in self.stage and total else None

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Over all videos.  # (K, K)"""
        return np.asarray(sum(self.videos.values(), start=np.int64(0)))  # np.sum would first copy them into one array

    @cached_property
    def final(self) -> dict[str, float]:
        """The numbers of the tables by name, in percent; one that is not known is left out.

        Without truth those that need none; no video consistency of evaluations made before it was counted.
        """
        of_stage = {"moved": self.moved, "exited": self.exited}
        stage = {key: value for key, value in of_stage.items() if value is not None}
        if not self.labelled:
            return stage
        scores: dict[str, float] = {}
        for name, metric in self.metrics.items():
            sums = self.sums(name)
            if sums is not None:
                values = metric.values(np.sum([sums[video] for video in self.videos], axis=0))
                scores |= {number: 100 * value for number, value in values.items() if not math.isnan(value)}
        return {**scores, **stage}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name."""
        return {name: make(len(self.confusion)) for name, make in self.makers.items()}

    def sums(self, metric: str) -> Mapping[str, Floats] | None:
        """Return a metric's sums by video; None where they were not counted."""
        if not counts_itself(self.metrics[metric]):
            return self._classes
        counted = self.vc if metric == "mvc" else self.own.get(metric, {})
        return counted if counted.keys() >= self.videos.keys() else None

    def totals(self, unit_of: Mapping[str, str]) -> dict[str, UnitTotals]:
        """Return the sums of all metrics that were counted, by unit."""
        every = {name: (metric, self.sums(name)) for name, metric in self.metrics.items()}
        return {
            name: unit_totals({video: sums[video] for video in self.videos}, unit_of, metric)
            for name, (metric, sums) in every.items()
            if sums is not None
        }

    @cached_property
    def _classes(self) -> dict[str, Floats]:
        return {video: np.stack(metrics.Classes.of(confusion)) for video, confusion in self.videos.items()}


def read_evaluation(directory: Path, makers: Mapping[str, MakeMetric] | None = None) -> RunRecord:
    """Return a finished evaluation from its directory, with the numbers of `makers`, else those of every evaluation."""
    videos, stages, vc = {}, [], {}
    own: dict[str, dict[str, Floats]] = {}
    for path in JobDir(directory).video_files():
        with np.load(path, allow_pickle=False) as saved:
            videos[path.stem] = saved["confusion"]
            stages.append({key: int(saved[key]) for key in STAGE if key in saved})
            if "vc" in saved:
                vc[path.stem] = saved["vc"]
            for key in saved.files:
                if key.startswith(OWN):
                    own.setdefault(key.removeprefix(OWN), {})[path.stem] = saved[key]
    counted = [key for key in STAGE if stages and all(key in counts for counts in stages)]  # older files lack them
    stage = {key: sum(counts[key] for counts in stages) for key in counted}
    facts = provenance(directory)
    return RunRecord(directory.name, videos, facts, stage=stage, vc=vc, own=own, makers=makers or always())


def packed(record: RunRecord) -> bytes:
    """Return all counts as a compressed file: names (V,), confusion (V, K, K), vc (V, ...) if all have it, stages.

    So the sums of each metric with counts of its own, as metric_NAME (V, ...).
    """
    buffer = io.BytesIO()
    names = list(record.videos)
    whole = {"vc": np.stack([record.vc[name] for name in names])} if record.vc.keys() >= set(names) else {}
    whole |= {f"stage_{key}": np.array(number) for key, number in record.stage.items()}
    for metric, sums in record.own.items():
        if sums.keys() >= set(names):
            whole[OWN + metric] = np.stack([sums[name] for name in names])
    matrices = np.stack(list(record.videos.values()))
    np.savez_compressed(buffer, names=np.array(names), confusion=matrices, **whole)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpacked(data: bytes, run_id: str, makers: Mapping[str, MakeMetric] | None = None) -> RunRecord:
    """Return the inverse of `packed`, as MLflow's run `run_id` holds it, with the numbers of `makers`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as saved:
        names = saved["names"].tolist()
        vc = dict(zip(names, saved["vc"], strict=True)) if "vc" in saved else {}
        stage = {key: int(saved[f"stage_{key}"]) for key in STAGE if f"stage_{key}" in saved}
        own = {
            key.removeprefix(OWN): dict(zip(names, saved[key], strict=True))
            for key in saved.files
            if key.startswith(OWN)
        }
        videos = dict(zip(names, saved["confusion"], strict=True))
        return RunRecord(run_id, videos, {}, run_id, stage, vc, own, makers or always())


def provenance(directory: Path) -> JsonObject:
    """Return a job's commit, versions and device, seconds of its launch (shared by the jobs `launch`), peak bytes.

    An evaluation's "cost" is what a frame took (engine/evaluation_cost); results of before 0.2 have none.
    """
    files = JobDir(directory)
    outcome = files.outcome()
    if outcome is None:
        return {**files.how(), "seconds": None}
    cost = read_json(files.cost_file)
    own = {**files.how(), **(outcome.provenance or {}), "seconds": outcome.seconds, "peak": outcome.peak}
    return {**own, "cost": cost} if cost else own
