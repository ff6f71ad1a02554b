"""What the tracking store hears of a plan: a parent run per plan, a child per training and per cell.

All of it is read from the root's files, and saying it twice changes nothing: whatever the store missed (it was away,
the run was offline) it hears the next time the same command is given. Without a store nothing is said.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from harness import score
from harness.core import content, journal, metrics, record
from harness.core.errors import UnfitError
from harness.core.job import Job, Train, digest
from harness.core.plan import Experiment, Plan, read_json, setting
from harness.core.redact import redact
from harness.core.spec import Cell
from harness.core.table import Report, report_markdown
from harness.store import monitor, view
from harness.store.tracking import PLAN, Tracking

RETRY = 30.0  # seconds before a store that is away is asked again
Point = tuple[str, float, int, int]  # key, value, step, unix milliseconds


class Curve:
    """Exactly once: a metric is given out with the checkpoint that covers it, since MLflow cannot delete a point."""

    def __init__(self) -> None:
        self.pending: list[Point] = []
        self.committed = -1  # the last step given out

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


class Publisher:
    """Tells the store of one plan; `tracking` None says nothing.

    A store that goes away while jobs run stops nothing: points wait, and what it still lacks at the end it is told by
    the next run of the same command.
    """

    def __init__(self, plan: Plan, tracking: Tracking | None, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.tracking = tracking
        self.say = say
        self._waiting: dict[Job, list[Point]] = {}
        self._next_try = 0.0  # monotonic seconds; a store that is away is not asked at every look
        self._parents: dict[str, tuple[str, str]] = {}  # experiment -> (experiment id, parent run)
        self._runs: dict[Job, str] = {}
        self._curves: dict[Job, Curve] = {}

    def parent(self, experiment: Experiment) -> tuple[str, str]:
        """Ids of the MLflow experiment and of the run that holds this plan's children; made at the first need."""
        assert self.tracking is not None
        if experiment.name not in self._parents:
            place = self.tracking.experiment(experiment.name)
            run = self.tracking.parent(
                place,
                name=f"{experiment.name} · {experiment.config.preset} · {experiment.digest[:7]}",
                plan=experiment.digest,
                tags={"harness.experiment": experiment.name, "harness.preset": experiment.config.preset},
                params=text(setting(experiment.config)),
                description=f"{experiment.title}. Children: one run per training, one per cell.",
            )
            self._parents[experiment.name] = (place, run)
        return self._parents[experiment.name]

    def begin(self, job: Job) -> None:
        """A training gets its run, or goes on with the one it has; the points that are already final are replayed."""
        if self.tracking is None or not isinstance(job, Train):
            return
        with self._patience():
            owner = next(experiment for experiment in self.plan.experiments if job in experiment.jobs)
            place, parent = self.parent(owner)
            run = self._known_run(job) or self.tracking.child(
                place,
                parent,
                name=f"train/{job.decoder}/seed{job.config['seed']}",
                key={
                    "harness.role": "train",
                    "harness.fingerprint": job.fingerprint,
                    "harness.made": str(record.provenance(self.plan.directory(job)).get("made")),
                },
                tags=self._tags(job),
                params=self._params(job),
            )
            self.tracking.resume(run)
            self._dataset(run, job, "train", "training")
            self._remember(job, run, told=False)
            self._runs[job], self._curves[job], self._waiting[job] = run, Curve(), []
            self.hear(job, journal.read(self.plan.directory(job) / "events.jsonl")[0])

    def hear(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """Pass on what of a training's journal has become final."""
        if self.tracking is None or job not in self._runs:
            return
        self._waiting[job] += self._curves[job].hear(events)
        if self._waiting[job] and time.monotonic() >= self._next_try:
            with self._patience():
                self.tracking.log(self._runs[job], self._waiting[job])
                self._waiting[job] = []

    def end(self, job: Job, status: str, outcome: Mapping[str, Any]) -> None:
        """Close a training's run with its true status, its configuration and its provenance."""
        if self.tracking is None or job not in self._runs:
            return
        run, directory = self._runs[job], self.plan.directory(job)
        tags = {"harness.outcome": outcome["status"], "harness.reason": outcome.get("reason") or ""}
        with self._patience():
            self.tracking.log(run, self._waiting[job])
            self.tracking.tag(run, {**tags, **provenance_tags(record.provenance(directory))})
            self.tracking.json(run, "config/job.json", job.spec())
            self.tracking.finish(run, status)
            self._remember(job, run, told=True)

    def watched(self, jobs: Iterable[Job]) -> AbstractContextManager[None]:
        """This node's GPUs as metrics of the training among the jobs, while the block runs."""
        runs = [self._runs[job] for job in jobs if job in self._runs]
        return nullcontext() if self.tracking is None or not runs else monitor.watching(self.tracking.uri, runs[0])

    @contextmanager
    def _patience(self) -> Iterator[None]:
        try:
            yield
        except (UnfitError, OSError) as error:
            if self._next_try == 0.0:
                self.say(f"{error}; the jobs go on, and the same command tells it later what it missed")
            self._next_try = time.monotonic() + RETRY

    def _remember(self, job: Job, run: str, told: bool) -> None:
        path = self.plan.directory(job) / "mlflow.json"
        record.write_json(path, {**read_json(path), self._store: {"run": run, "told": told}})

    def up_to_date(self, experiment: Experiment) -> bool:
        """Whether the store already has all that is done of this plan: then an invocation creates nothing."""
        if self.tracking is None:
            return True
        known = self.tracking.find(experiment.name, [experiment.digest], tag=PLAN)
        parent = known.get(experiment.digest)
        return parent is not None and parent.tags.get("harness.told") == self._told(experiment)

    def catch_up(self, experiment: Experiment) -> None:
        """Tell what the store does not have yet: trainings that are done, then every cell with its final numbers."""
        if self.tracking is None:
            return
        for job in experiment.jobs:
            if isinstance(job, Train) and self.plan.state(job) == "done" and not self._told_run(job):
                self.begin(job)
                self.end(job, "FINISHED", read_json(self.plan.directory(job) / "outcome.json"))
        for seed, cell in experiment.cells:
            if self.plan.state(cell.job) == "done":
                self._cell(experiment, seed, cell)

        for name, found in score.scores(self.plan.root, experiment.config):
            self._score(experiment, name, found)

    def _score(self, experiment: Experiment, name: str, found: record.RunRecord) -> None:
        assert self.tracking is not None
        place, parent = self.parent(experiment)
        run = self.tracking.child(
            place,
            parent,
            name=f"score/{name}",
            key={"harness.role": "score", "harness.fingerprint": found.fingerprint},
            tags={"harness.cell": f"score_{name}", "harness.units": units(experiment, found)},
            params={"method": name},
        )
        if self.tracking.get(run).status == "FINISHED":
            return
        when = round(1000 * (self.plan.root / "scores" / found.fingerprint / "score.json").stat().st_mtime)
        self.tracking.log(run, [(f"final/{key}", round(value, 4), 0, when) for key, value in found.final.items()])
        self.tracking.json(run, "tables/per_class.json", per_class(experiment, found))
        self.tracking.finish(run, "FINISHED")

    def report(self, experiment: Experiment, report: Report, folder: Path, status: str) -> None:
        """The report as artefacts of the parent and as the experiment's note; the parent gets its true status."""
        if self.tracking is None:
            return
        place, run = self.parent(experiment)
        for path in sorted(folder.iterdir()):
            self.tracking.file(run, path, "report")
        self.tracking.note(place, report_markdown(report))
        self.tracking.tag(run, {"harness.told": self._told(experiment)})
        self.tracking.finish(run, status)

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

    def _told(self, experiment: Experiment) -> str:
        done = [(seed, cell) for seed, cell in experiment.cells if self.plan.state(cell.job) == "done"]
        made = [record.provenance(self.plan.directory(cell.job)).get("made") for _, cell in done]
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
        found = record.read_evaluation(directory)
        run = self.tracking.child(
            place,
            parent,
            name=f"{cell.name}/seed{seed}",
            key={
                "harness.role": "cell",
                "harness.cell": cell.name,
                "harness.fingerprint": cell.job.fingerprint,
                "harness.made": str(found.provenance.get("made")),  # a job that was run again has a run of its own
            },
            tags={
                **self._tags(cell.job),
                "harness.seed": str(seed),
                "harness.units": units(experiment, found),
                "harness.trained_by": " ".join(self._known_run(member) or "" for member in cell.job.members),
                **provenance_tags(found.provenance),
            },
            params={**self._params(cell.job.members[0]), "method": cell.method, "stage": str(cell.job.stage)},
        )
        if self.tracking.get(run).status == "FINISHED":
            return
        when = round(1000 * (directory / "outcome.json").stat().st_mtime)
        self.tracking.log(run, [(f"final/{key}", round(value, 4), 0, when) for key, value in found.final.items()])
        self._dataset(run, cell.job, cell.job.split, "eval")
        self.tracking.json(run, "config/job.json", cell.job.spec())
        self.tracking.json(run, "tables/per_class.json", per_class(experiment, found))
        matrices = directory / "matrices.npz"
        matrices.write_bytes(record.packed(found))
        self.tracking.file(run, matrices)
        self.tracking.finish(run, "FINISHED")

    def _known_run(self, job: Job) -> str | None:
        assert self.tracking is not None
        run = read_json(self.plan.directory(job) / "mlflow.json").get(self._store, {}).get("run")
        return run if run is not None and self.tracking.has(run) else None

    def _told_run(self, job: Job) -> bool:
        kept = read_json(self.plan.directory(job) / "mlflow.json").get(self._store, {})
        return bool(kept.get("told")) and self._known_run(job) is not None

    def _tags(self, job: Job) -> dict[str, str]:
        return {
            "harness.recipe": job.recipe,
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
        self.tracking.dataset(run, f"{name}-{split}", made or config.content.splits[split], context, str(place))


def units(experiment: Experiment, found: record.RunRecord) -> str:
    """How many independent units a number rests on."""
    return str(len(set(content.units(experiment.config, found.videos).values())))


def per_class(experiment: Experiment, found: record.RunRecord) -> list[dict[str, Any]]:
    """Class, IoU in percent (None without truth) and pixels of truth."""
    classes = content.build_dataset(experiment.config).classes
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
