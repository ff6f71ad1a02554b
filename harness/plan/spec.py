"""The content of job.yaml: a job as a worker runs it. It is written as JSON, which is YAML."""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Literal, TypeVar

from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError
from harness.config.compose import DataSpec, PluginSpec, hashable
from harness.config.sections import EvaluateConfig, TrainConfig
from harness.config.settings import RankOptions
from harness.jobdir.paths import JobDir


@dataclass(frozen=True)
class LaunchSpec(RankOptions):
    """A launch's options for a job; no number depends on it. None: not said."""

    attempt: int | None = None  # number of the lease
    pause: int | None = None  # iterations after which a rehearsal's training stops, to be resumed
    videos: int | None = None  # at most, in a rehearsal


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """A training."""

    kind: Literal["train"] = "train"
    fingerprint: str
    seed: int
    precision: str
    data: DataSpec
    encoder: PluginSpec
    decoder: PluginSpec
    train: TrainConfig
    evaluate: EvaluateConfig  # of the evaluations on the way; its window is an int
    iterations: int
    plugins: tuple[str, ...]  # folders
    identity: JsonObject
    launch: LaunchSpec = LaunchSpec()


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """An evaluation."""

    kind: Literal["evaluate"] = "evaluate"
    fingerprint: str
    members: tuple[str, ...]  # fingerprints of the trainings
    prior: str | None  # fingerprint of the stage before, or one of plan.job.GIVEN
    stage: int
    scales: tuple[float, ...]
    flip: bool
    split: str
    control: str | None = None
    precision: str
    data: DataSpec
    evaluate: EvaluateConfig  # its window is an int
    plugins: tuple[str, ...]  # folders
    identity: JsonObject
    metrics: JsonObject = field(default_factory=dict)  # with counts of their own: name -> options
    launch: LaunchSpec = LaunchSpec()


JobSpec = TrainSpec | EvaluateSpec
Kind = TypeVar("Kind", TrainSpec, EvaluateSpec)
T = TypeVar("T")


def to_json(spec: JobSpec) -> JsonObject:
    """Return the content of job.yaml: a launch's options lie beside the job's; some keys are left out where empty."""
    content = asdict(spec)
    launch: JsonObject = content.pop("launch")
    for section, key in ((content, "control"), (content, "metrics"), (content["data"], "hold_out")):
        if not section.get(key):
            section.pop(key, None)
    launched = spec.launch != LaunchSpec()
    return content | {key: value for key, value in launch.items() if launched and value is not None}


def from_json(content: JsonObject) -> JobSpec:
    """Return the spec that job.yaml's content describes. Raise KeyError for a missing key, ValueError for the kind."""
    kinds: dict[str, type[JobSpec]] = {"train": TrainSpec, "evaluate": EvaluateSpec}
    if content["kind"] not in kinds:
        raise ValueError(f"no job is of the kind {content['kind']!r}")
    return _build(kinds[content["kind"]], hashable(content))


def read(folder: Path) -> JobSpec:
    """Return the spec in a job's directory. Raise UnfitError where there is none, or none of a job."""
    path = JobDir(folder).job_file
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise UnfitError(f"{path}: {error} is missing; plan the job again") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnfitError(f"{path}: cannot be read ({error}); plan the job again") from error


def read_as(folder: Path, kind: type[Kind]) -> Kind:
    """Return the spec in a job's directory, which must be of a kind. Raise UnfitError."""
    spec = read(folder)
    if not isinstance(spec, kind):
        raise UnfitError(f"{JobDir(folder).job_file}: is not a job of kind {kind.kind}; plan the job again")
    return spec


def _build(cls: type[T], content: JsonObject) -> T:
    """Return a dataclass of the keys that are its fields; a key that is absent must be optional, or move no number."""
    values: JsonObject = {}
    for f in fields(cls):  # type: ignore[arg-type]
        if f.type is LaunchSpec:
            values[f.name] = LaunchSpec(**{key: content[key] for key in f.type.__dataclass_fields__ if key in content})
        elif f.name in content:
            value = content[f.name]
            values[f.name] = _build(f.type, value) if isinstance(f.type, type) and is_dataclass(f.type) else value
        elif not f.metadata.get("where") and f.default is not None and f.default_factory is MISSING:
            raise KeyError(f.name)
    return cls(**values)
