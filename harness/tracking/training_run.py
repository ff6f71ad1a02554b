"""A training's run in MLflow: its final points, each once, and how far the training is."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from harness.common.atomic_files import JsonObject, read_json, write_json
from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.jobdir.events import Event
from harness.jobdir.paths import JobDir, Outcome
from harness.jobdir.replay import Point, Replay, Samples
from harness.plan.job import Job, Train, digest
from harness.plan.outcome import ENDED
from harness.plan.plan import setting
from harness.plan.spec import to_json
from harness.results import records
from harness.results.evidence import device_seconds
from harness.tracking import tags
from harness.tracking.client import EXPERIMENT, PARENT, Tracking
from harness.tracking.failures import speaks
from harness.tracking.store import Store

POINTS = 1000  # that the store is told at once while a job is at work: SQLite takes a second for them
BYTES = 32768  # of a node's samples at once: those of some minutes


@dataclass(frozen=True)
class Upload:
    """A training's upload to one store (mlflow.json): its run, `told` once all is there, else the step and bytes."""

    run: str | None = None
    told: bool = False
    step: int = -1
    samples: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, files: JobDir, store: Store) -> "Upload":
        """Return what is noted in mlflow.json; where that is damaged the store is told again."""
        entry = _uploads(files).get(store.name, {})
        return cls(**{item.name: entry[item.name] for item in fields(cls) if item.name in entry})


def known_run(files: JobDir, store: Store) -> str | None:
    """Return the run that holds a training, None where the store has none, or none under a plan of ours any more."""
    run = Upload.read(files, store).run
    return run if run is not None and store.tracking.has(run) and has_parent(store.tracking, run) else None


@speaks
def has_parent(tracking: Tracking, run_id: str) -> bool:
    """Return whether a run is under the run of a plan or study of ours, in an experiment that has its name still."""
    parent_id = tracking.get(run_id).tags.get(PARENT)
    if parent_id is None or not tracking.has(parent_id):
        return False
    parent = tracking.get(parent_id)
    experiment = tracking.connect().get_experiment(parent.experiment_id)
    return bool(experiment.name == tracking.prefix + parent.tags.get(EXPERIMENT, ""))


class TrainingRun:
    """A training goes on in a run, after what was noted that this run was told; `afresh` trusts no note."""

    def __init__(self, store: Store, files: JobDir, run: str, afresh: bool) -> None:
        upload = Upload.read(files, store)
        if upload.run != run or afresh:
            upload = Upload(run)
        self.store, self.files, self.run = store, files, run
        self.replay = Replay(committed=upload.step)
        self.samples = Samples(files, dict(upload.samples))
        self.waiting: list[Point] = []
        self._note(run=run, told=False, step=upload.step, samples=self.samples.offsets)

    def hear(self, events: Iterable[Event]) -> None:
        """Replay what the journal has gained."""
        self.waiting += self.replay.hear(events)

    def send(self, most: int | None = None) -> None:
        """Log what waits, or its first points; how far the store was told is noted once nothing waits."""
        points = self.waiting[:most]
        if not points:
            return
        self.store.tracking.log(self.run, points)
        del self.waiting[: len(points)]
        if not self.waiting:
            self._note(step=self.replay.committed, samples=self.samples.offsets)

    def send_all(self) -> None:
        """Log all that is final, however much it is."""
        self.send()
        while points := self.samples.read(BYTES):
            self.waiting += points
            self.send()

    def pulse(self) -> None:
        """Upload the training's progress and some of its GPUs' samples."""
        self.store.tracking.tag(self.run, pulse_tags(self.replay))
        self.waiting += self.samples.read(BYTES)
        self.send(POINTS)

    def end(self, job: Train, outcome: Outcome) -> None:
        """Close the run with its true status, its configuration and its provenance."""
        self.send_all()
        ending = {tags.OUTCOME: outcome.status, tags.REASON: redact(outcome.reason or "")}
        tracking, provenance = self.store.tracking, provenance_tags(records.provenance(self.files.folder))
        tracking.tag(self.run, {**pulse_tags(self.replay), **ending, **provenance})
        tags.migrate(tracking, tracking.get(self.run))
        tracking.json(self.run, "config/job.json", to_json(job.spec()))
        tracking.finish(self.run, ENDED.get(outcome.status, "FAILED"))
        self._note(told=True)

    def _note(self, **facts: object) -> None:
        uploads = _uploads(self.files)
        write_json(self.files.upload_file, {**uploads, self.store.name: {**uploads.get(self.store.name, {}), **facts}})


def _uploads(files: JobDir) -> JsonObject:
    try:
        return read_json(files.upload_file)
    except UnfitError:
        return {}


def pulse_tags(replay: Replay) -> dict[str, str]:
    """Return how far a job is: step, loss, seconds to go at the attempt's mean rate, and when this was."""
    return {
        tags.STEP: f"{replay.measured}/{replay.steps}",
        tags.LOSS: "" if replay.loss is None else f"{replay.loss:.4f}",
        tags.ETA: "" if replay.eta is None else f"{replay.eta:.0f}",
        tags.HEARTBEAT: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(replay.time or 0.0)),
    }


def job_tags(files: JobDir, job: Job) -> dict[str, str]:
    """Return what identifies a job and its configuration."""
    return {
        "harness.recipe": job.config_hash,
        "harness.preset": job.config.preset,
        "harness.directory": str(files.folder),
    }


def params(*trainings: Train) -> dict[str, str]:
    """Return parameters of a training, or of an ensemble's, each option under its decoder: `decoder_a.momentum`."""
    members = sorted(trainings, key=lambda job: (job.decoder, job.config["seed"]))
    seeds = dict.fromkeys(job.config["seed"] for job in members)
    options = {
        key if len(members) == 1 else f"{job.decoder}.{key}": value
        for job in members
        for key, value in job.config["decoder"].get(job.decoder, {}).items()
    }
    who = {"decoder": " + ".join(job.decoder for job in members), "seed": " + ".join(map(str, seeds))}
    return text({**who, **setting(members[0].config), **options})


def log_dataset(tracking: Tracking, run: str, job: Job, split: str, context: str) -> None:
    """Link a run to a split by its digest, or by that of its settings where it is made, not read."""
    config = job.config
    name, splits = config["data"]["name"], config.content.data
    source = config["data"].get(name, {}).get("root") or f"{name} videos, made on the fly"
    tracking.dataset(run, f"{name}-{split}", splits.get(split) or digest(job.identity["data"]), context, str(source))


def provenance_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return what a reviewer asks of a number: commit, versions, device, launcher, command."""
    keys = (
        "commit",
        "dirty",
        "device",
        "threads",
        "world",
        "launcher",
        "nproc",
        "command",
        "host",
        "seconds",
        "device_seconds",
    )
    versions = {f"harness.version.{name}": version for name, version in (provenance.get("versions") or {}).items()}
    values = {**provenance, "device_seconds": device_seconds(provenance)}
    known = {key: str(values[key]) for key in keys if values.get(key) is not None}
    named = {key if key in tags.READ else tags.PREFIX + key: value for key, value in known.items()}
    return {**named, **text(versions)}


def text(values: Mapping[str, object]) -> dict[str, str]:
    """Return values as MLflow keeps them."""
    return {key: str(value) for key, value in values.items()}
