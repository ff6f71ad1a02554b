"""What the tracking store hears of a plan: a parent run per plan, a child per training and per cell.

All of it is read from the root's files, and saying it twice changes nothing: whatever the store missed (it was away,
the run was offline) it hears the next time the same command is given. Without a store nothing is said.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.config import input_digests
from harness.jobdir import events as journal
from harness.jobdir.replay import Curve, Point, Pulse, Samples
from harness.plan.cell import Cell
from harness.plan.job import GIVEN, Job, Train, digest
from harness.plan.plan import Experiment, Plan, setting
from harness.plan.spec import to_json
from harness.results import metrics, records, score
from harness.results.table import Report, report_markdown
from harness.tracking import view
from harness.tracking.client import PLAN, ROLE, SCORE, Found, Tracking
from harness.tracking.opening import impatient

RETRY = 30.0  # seconds before a store that is away is asked again
PULSE = 60.0  # seconds between two looks that a run's tags give at how far it is
POINTS = 1000  # that the store is told at once while a job is at work: SQLite takes a second for them
BYTES = 32768  # of a node's samples at once: those of some minutes


class Publisher:
    """Tells the store of one plan; `tracking` None says nothing, `afresh` trusts no note of what was told.

    A store that goes away while jobs run stops nothing: points wait, a job whose run could not be made is tried again,
    and what the store still lacks at the end it is told by the next run of the same command or by `harness sync`.
    """

    def __init__(self, plan: Plan, tracking: Tracking | None, say: Callable[[str], None], afresh: bool = False) -> None:
        self.plan = plan
        self.tracking = tracking
        self.say = say
        self._afresh = afresh
        self._away = False
        self._lock = FileLock(plan.root / ".mlflow.lock", timeout=600)  # no run is made twice by all who see the root
        self._missed: set[Job] = set()  # trainings that began while the store was away
        self._pulses: dict[Job, Pulse] = {}
        self._waiting: dict[Job, list[Point]] = {}
        self._next_try = 0.0  # monotonic seconds; a store that is away is not asked at every look
        self._parents: dict[str, tuple[str, str]] = {}  # experiment -> (experiment id, parent run)
        self._runs: dict[Job, str] = {}
        self._curves: dict[Job, Curve] = {}
        self._samples: dict[Job, Samples] = {}

    def parent(self, experiment: Experiment) -> tuple[str, str]:
        """Ids of the MLflow experiment and of the run that holds this plan's children; made at the first need."""
        assert self.tracking is not None
        if experiment.name not in self._parents:
            with self._lock:
                place = self.tracking.experiment(experiment.name)
                run = self.tracking.parent(
                    place,
                    name=f"{experiment.name} · {experiment.config.preset} · {experiment.digest[:7]}",
                    plan=experiment.digest,
                    tags={
                        ROLE: "plan",
                        "harness.experiment": experiment.name,
                        "harness.preset": experiment.config.preset,
                    },
                    params=text(setting(experiment.config)),
                    description=f"{experiment.title}. Children: one run per training, one per cell.",
                )
            self._parents[experiment.name] = (place, run)
        return self._parents[experiment.name]

    def alone(self) -> AbstractContextManager[Any]:
        """Held while something is looked up and then made, by one of all who see the root."""
        return self._lock

    def open(self, jobs: Sequence[Job]) -> None:
        """Jobs are about to be run: the plan's runs that hold them are at work again."""
        if self.tracking is None:
            return
        with self._patience():
            for experiment in self.plan.experiments:
                if any(job in experiment.jobs for job in jobs):
                    self.tracking.resume(self.parent(experiment)[1])

    def begin(self, job: Job) -> None:
        """A training gets its run, or goes on with the one it has; the points that are already final are replayed."""
        if self.tracking is None or not isinstance(job, Train):
            return
        self._missed.add(job)
        with self._patience():
            owner = next(experiment for experiment in self.plan.experiments if job in experiment.jobs)
            place, parent = self.parent(owner)
            with self._lock:
                run = self._known_run(job) or self.tracking.child(
                    place,
                    parent,
                    name=f"train/{job.decoder}/seed{job.config['seed']}",
                    key={
                        ROLE: "train",
                        "harness.fingerprint": job.fingerprint,
                        "harness.made": str(records.provenance(self.plan.directory(job)).get("made")),
                    },
                    tags=self._tags(job),
                    params=self._params(job),
                )
                self._enter(job, run)
            self.tracking.resume(run)
            self._dataset(run, job, "train", "training")
            self._missed.discard(job)
            self.hear(job, journal.read(self.plan.directory(job) / "events.jsonl")[0])

    def _enter(self, job: Job, run: str) -> None:
        """A training goes on in a run, after what was noted that this run was told."""
        kept = self._notes(job).get(self._store, {})
        if kept.get("run") != run or (self._afresh and job not in self._runs):
            kept = {}
        self._curves[job] = Curve(kept.get("step", -1))
        self._samples[job] = Samples(self.plan.directory(job), kept.get("samples", {}))
        self._runs[job], self._waiting[job] = run, []
        self._remember(job, run=run, told=False, step=kept.get("step", -1), samples=self._samples[job].offsets)

    def hear(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """Pass on what of a journal has become final, in pieces, and now and then how far the job is."""
        if self.tracking is None:
            return
        pulse = self._pulses.setdefault(job, Pulse())
        pulse.hear(events)
        if job in self._runs:
            self._waiting[job] += self._curves[job].hear(events)
        if time.monotonic() < self._next_try:
            return
        if job in self._missed:
            self.begin(job)  # which hears the whole journal
            return
        if self._waiting.get(job):
            with self._patience():
                self._tell(job, POINTS)
        if time.monotonic() - pulse.told >= PULSE:
            with self._patience():
                self._tell_pulse(job, pulse)

    def _tell_pulse(self, job: Job, pulse: Pulse) -> None:
        assert self.tracking is not None
        pulse.told = time.monotonic()
        if job in self._runs:
            self.tracking.tag(self._runs[job], pulse.tags)
            self._waiting[job] += self._samples[job].read(BYTES)
            self._tell(job, POINTS)
            return
        for experiment in self.plan.experiments:  # a cell has no run before its number is there
            if job in experiment.jobs and experiment.name in self._parents:
                self.tracking.tag(self._parents[experiment.name][1], {"harness.live": job.name, **pulse.tags})

    def _tell(self, job: Job, most: int | None = None) -> None:
        """Log what waits, or its first points; how far the store was told is noted once nothing waits."""
        assert self.tracking is not None
        points = self._waiting[job][:most]
        if not points:
            return
        self.tracking.log(self._runs[job], points)
        del self._waiting[job][: len(points)]
        if not self._waiting[job]:
            self._remember(job, step=self._curves[job].committed, samples=self._samples[job].offsets)

    def drain(self, job: Job) -> None:
        """Tell all that is final of a training that was begun, however much it is."""
        if job not in self._runs or time.monotonic() < self._next_try:
            return
        with self._patience():
            self._tell_all(job)

    def _tell_all(self, job: Job) -> None:
        self._tell(job)
        while points := self._samples[job].read(BYTES):
            self._waiting[job] += points
            self._tell(job)

    def end(self, job: Job, status: str, outcome: Mapping[str, Any]) -> None:
        """Close a training's run with its true status, its configuration and its provenance."""
        if self.tracking is None or not isinstance(job, Train):
            return
        if job in self._missed:
            self.begin(job)
        if job not in self._runs:
            return
        run, directory = self._runs[job], self.plan.directory(job)
        tags = {"harness.outcome": outcome["status"], "harness.reason": redact(outcome.get("reason") or "")}
        with self._patience():
            self._tell_all(job)
            known = self._pulses.get(job, Pulse()).tags if job in self._pulses else {}
            self.tracking.tag(run, {**known, **tags, **provenance_tags(records.provenance(directory))})
            self.tracking.json(run, "config/job.json", to_json(job.spec()))
            self.tracking.finish(run, status)
            self._remember(job, told=True)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """The store may be away: then what was to be told waits, and it is asked again later, for a short time each."""
        try:
            with impatient() if self._away else nullcontext():
                yield
        except (UnfitError, OSError) as error:
            if not self._away:
                self.say(
                    f"{error}; the jobs go on, and it is told what it missed when it is back, or by `harness sync`"
                )
            self._away, self._next_try = True, time.monotonic() + RETRY
        else:
            back, self._away, self._next_try = self._away, False, 0.0
            if back:
                self.say("MLflow answers again; it is told what it missed")

    def _notes(self, job: Job) -> dict[str, Any]:
        """By store: a training's run; whether all of it was told, or up to which step, and how many bytes a node."""
        try:
            return read_json(self.plan.directory(job) / "mlflow.json")
        except UnfitError:  # damaged: the store is told again
            return {}

    def _remember(self, job: Job, **facts: Any) -> None:
        notes = self._notes(job)
        kept = {**notes.get(self._store, {}), **facts}
        write_json(self.plan.directory(job) / "mlflow.json", {**notes, self._store: kept})

    def up_to_date(self, experiment: Experiment) -> bool:
        """Whether the store already has all that is done of this plan: then an invocation creates nothing."""
        if self.tracking is None:
            return True
        if self._afresh:
            return False
        known = self.tracking.find(experiment.name, [experiment.digest], tag=PLAN)
        parent = known.get(experiment.digest)
        return parent is not None and parent.tags.get("harness.told") == self.done(experiment)

    def catch_up(self, experiment: Experiment) -> None:
        """Tell what the store does not have yet: trainings that are done, then every cell with its final numbers."""
        if self.tracking is None:
            return
        for job in experiment.jobs:
            if isinstance(job, Train) and self.plan.state(job) == "done" and not self._told_run(job):
                self.begin(job)
                self.end(job, "FINISHED", read_json(self.plan.directory(job) / "outcome.json"))
        with self._lock:
            for seed, cell in experiment.cells:
                if self.plan.state(cell.job) == "done":
                    self._cell(experiment, seed, cell)
            for name, found in score.scores(self.plan.root, experiment.config):
                self._score(experiment, name, found)

    def _score(self, experiment: Experiment, name: str, found: records.RunRecord) -> None:
        assert self.tracking is not None
        place, parent = self.parent(experiment)
        run = self.tracking.child(
            place,
            parent,
            name=f"score/{name}",
            key={**SCORE, "harness.fingerprint": found.fingerprint},
            tags={"harness.cell": f"score_{name}", "harness.units": units(experiment, found)},
            params={"method": name},
        )
        if self.tracking.get(run).status == "FINISHED":
            return
        when = round(1000 * (self.plan.root / "scores" / found.fingerprint / "score.json").stat().st_mtime)
        self.tracking.log(run, [(f"final/{key}", round(value, 4), 0, when) for key, value in found.final.items()])
        self.tracking.json(run, "tables/per_class.json", per_class(experiment, found))
        self._matrices(run, found, self.plan.root / "scores" / found.fingerprint)
        self.tracking.finish(run, "FINISHED")

    def _matrices(self, run: str, found: records.RunRecord, directory: Path) -> None:
        """All counts as an artefact, from which a report is built without the root."""
        assert self.tracking is not None
        path = directory / "matrices.npz"
        path.write_bytes(records.packed(found))
        self.tracking.file(run, path)

    def report(self, experiment: Experiment, report: Report, folder: Path, status: str) -> None:
        """The report as artefacts of the parent, as its note and the experiment's; the parent gets its true status."""
        if self.tracking is None:
            return
        place, run = self.parent(experiment)
        for path in sorted(folder.iterdir()):
            self.tracking.file(run, path, "report")
        told = report_markdown(report)
        self.tracking.note(place, told)
        self.tracking.describe(run, told)
        if status == "RUNNING":
            self.tracking.resume(run)
        else:
            self.tracking.finish(run, status)

    def close(self, experiment: Experiment, status: str) -> None:
        """The plan's run ends without a report, where it was opened here."""
        if self.tracking is not None and experiment.name in self._parents:
            with self._patience():
                self.tracking.finish(self._parents[experiment.name][1], status)

    def complete(self, experiment: Experiment) -> None:
        """The store has been told all of a plan that is done: `up_to_date` from now on."""
        if self.tracking is not None:
            self.tracking.tag(self.parent(experiment)[1], {"harness.told": self.done(experiment)})

    def told(self, job: Job) -> tuple[str, str] | None:
        """Status and outcome that the store has of a training; None where it has none."""
        assert self.tracking is not None
        run = self._known_run(job)
        if run is None or (self._afresh and job not in self._runs):
            return None
        found = self.tracking.get(run)
        return found.status, found.tags.get("harness.outcome", "")

    def known(self, experiment: Experiment) -> Found | None:
        """The plan's run, where the store has one that is whole."""
        assert self.tracking is not None
        place = self.tracking.find(experiment.name, [experiment.digest], tag=PLAN, ended=False)
        return place.get(experiment.digest)

    def link(self, experiment: Experiment) -> str:
        """Where a person opens the plan's run; empty without a store."""
        if self.tracking is None:
            return ""
        known = self.tracking.find(experiment.name, [experiment.digest], tag=PLAN).get(experiment.digest)
        return "" if known is None else self.tracking.link(known.run_id)

    def pages(self, experiment: Experiment) -> str:
        """Where the store shows a run, up to its id; empty where it has no pages."""
        return "" if self.tracking is None else view.pages(self.tracking, experiment.name)

    def runs(self, experiment: Experiment) -> dict[str, str]:
        """Run ids of the cells that the store has, by fingerprint."""
        if self.tracking is None:
            return {}
        fingerprints = [cell.job.fingerprint for _, cell in experiment.cells]
        return {key: run.run_id for key, run in self.tracking.find(experiment.name, fingerprints).items()}

    def done(self, experiment: Experiment) -> str:
        """A digest of what is done of a plan: equal while nothing is added or made anew."""
        done = [(seed, cell) for seed, cell in experiment.cells if self.plan.state(cell.job) == "done"]
        made = [records.provenance(self.plan.directory(cell.job)).get("made") for _, cell in done]
        scored = [found.fingerprint for _, found in score.scores(self.plan.root, experiment.config)]
        return digest([[seed, cell.name] for seed, cell in done] + made + scored)

    @property
    def _store(self) -> str:
        assert self.tracking is not None
        return redact(self.tracking.uri)

    def _cell(self, experiment: Experiment, seed: int, cell: Cell) -> None:
        assert self.tracking is not None
        place, parent = self.parent(experiment)
        directory = self.plan.directory(cell.job)
        found = records.read_evaluation(directory)
        trained = [records.provenance(self.plan.directory(job)) for job in cell.job.inputs]
        made = records.joined([*trained, found.provenance])
        run = self.tracking.child(
            place,
            parent,
            name=f"{cell.name}/seed{seed}",
            key={
                ROLE: "cell",
                "harness.cell": cell.name,
                "harness.fingerprint": cell.job.fingerprint,
                "harness.made": str(found.provenance.get("made")),  # a job that was run again has a run of its own
            },
            tags={
                **self._tags(cell.job),
                "harness.seed": str(seed),
                "harness.units": units(experiment, found),
                "harness.trained_by": " ".join(self._known_run(member) or "" for member in cell.job.members),
                **provenance_tags(made),
            },
            params={
                **self._params(cell.job.members[0]),
                "method": cell.method,
                "stage": str(cell.job.prior) if cell.job.prior in GIVEN else str(cell.job.stage),
            },
        )
        if self.tracking.get(run).status == "FINISHED":
            return
        when = round(1000 * (directory / "outcome.json").stat().st_mtime)
        points = [(f"final/{key}", round(value, 4), 0, when) for key, value in found.final.items()]
        self.tracking.log(run, [*points, *Samples(directory).read()])
        self._dataset(run, cell.job, cell.job.split, "eval")
        self.tracking.json(run, "config/job.json", to_json(cell.job.spec()))
        self.tracking.json(run, "tables/per_class.json", per_class(experiment, found))
        self._matrices(run, found, directory)
        self.tracking.finish(run, "FINISHED")

    def _known_run(self, job: Job) -> str | None:
        assert self.tracking is not None
        run = self._notes(job).get(self._store, {}).get("run")
        return run if run is not None and self.tracking.has(run) else None

    def _told_run(self, job: Job) -> bool:
        if self._afresh and job not in self._runs:
            return False
        kept = self._notes(job).get(self._store, {})
        return bool(kept.get("told")) and self._known_run(job) is not None

    def _tags(self, job: Job) -> dict[str, str]:
        return {
            "harness.recipe": job.config_hash,
            "harness.preset": job.config.preset,
            "harness.directory": str(self.plan.directory(job)),
        }

    def _params(self, job: Train) -> dict[str, str]:
        config = job.config
        options = config["decoder"].get(job.decoder, {})
        return text({"decoder": job.decoder, "seed": config["seed"], **setting(config), **options})

    def _dataset(self, run: str, job: Job, split: str, context: str) -> None:
        assert self.tracking is not None
        config = job.config
        name = config["data"]["name"]
        made = digest(job.identity["data"]) if config.content.splits.get(split) is None else None
        place = config["data"].get(name, {}).get("root") or f"{name} videos, made on the fly"
        self.tracking.dataset(run, f"{name}-{split}", made or config.content.data[split], context, str(place))


def units(experiment: Experiment, found: records.RunRecord) -> str:
    """How many independent units a number rests on."""
    return str(len(set(input_digests.units(experiment.config, found.videos).values())))


def per_class(experiment: Experiment, found: records.RunRecord) -> list[dict[str, Any]]:
    """Class, IoU in percent (None without truth) and pixels of truth."""
    classes = input_digests.build_dataset(experiment.config).classes
    confusion = found.confusion
    scores, truth = 100 * metrics.iou(confusion), confusion.sum(axis=1)
    rows = zip(classes, scores.tolist(), truth.tolist(), strict=True)
    return [{"class": name, "iou": round(score, 2) if n else None, "pixels": n} for name, score, n in rows]


def provenance_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """What a reviewer asks of a number: commit, versions, device, launcher, command."""
    keys = ("commit", "dirty", "device", "threads", "world", "launcher", "nproc", "command", "host", "seconds")
    versions = {f"harness.version.{name}": version for name, version in (found.get("versions") or {}).items()}
    return {**{f"harness.{key}": str(found[key]) for key in keys if found.get(key) is not None}, **text(versions)}


def text(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow keeps them."""
    return {key: str(value) for key, value in values.items()}
