"""Publish a study to MLflow: a parent run with one child run per trial, `trial-007 m=0.031 poly`.

A trial's run is its training's run too: the curve, the evaluations on the way and the final numbers stand in one
place. Where another experiment has made the training, the trial has the numbers and says which run did the work.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.jobdir import pruning
from harness.jobdir.events import Event, read_events
from harness.jobdir.paths import JobDir, Outcome
from harness.jobdir.replay import Replay, measurements
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Plan, setting
from harness.plan.study import Study, Trial
from harness.results import records
from harness.results.table import Report, report_markdown
from harness.search.storage import Live
from harness.tracking import tags, view
from harness.tracking.client import EXPERIMENT, FINGERPRINT, SOURCE, Tracking
from harness.tracking.publisher import Publisher, Silent
from harness.tracking.store import Store
from harness.tracking.training_run import known_run, provenance_tags, text

TRIAL = "harness.trial"  # study.number
OUTCOME = {"complete": "finished"}  # the others are called as they are


class SilentStudyPublisher:
    """Says nothing; what a study without a store has, and the interface of one that tells a store."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def trial(self, plan: Plan, live: Live) -> Silent:
        """Return what hears of a trial's jobs."""
        return PruningPublisher(Silent(), self.study, plan, live)

    def close(self, trial: Trial) -> None:
        """Upload a trial's outcome, final numbers, and who did the work. Doing it again changes nothing."""

    def catch_up(self, trials: Sequence[Trial]) -> None:
        """Upload what the store lacks of trials that have ended."""

    def pages(self, trials: Sequence[Trial]) -> dict[str, str]:  # noqa: ARG002
        """Return the address of each trial's run by its number; empty if the store has no pages."""
        return {}

    def report(self, report: Report, folder: Path, status: str) -> str:  # noqa: ARG002
        """Log the report as artefacts of the study's run; return the run's address."""
        return ""

    def mark(self, status: str) -> None:
        """Give the study's run its status: at work again, or ended."""


def study_publisher_of(study: Study, root: Path, tracking: Tracking | None) -> SilentStudyPublisher:
    """Return what tells a store of a study; without a store, what says nothing."""
    return SilentStudyPublisher(study) if tracking is None else StudyPublisher(study, root, tracking)


class StudyPublisher(SilentStudyPublisher):
    """Tells the store of one study."""

    def __init__(self, study: Study, root: Path, tracking: Tracking) -> None:
        super().__init__(study)
        self.root, self.tracking, self.store = root, tracking, Store(tracking, root)
        self._parent: tuple[str, str] | None = None

    @property
    def experiment(self) -> str:
        """The experiment's name in MLflow."""
        return f"search_{self.study.search}"

    def parent(self) -> tuple[str, str]:
        """Return ids of the experiment and of the study's run, created at first use, continued by the same study."""
        if self._parent is None:
            study = self.study
            with self.store.lock:
                experiment_id = self.tracking.experiment(self.experiment)
                run = self.tracking.parent(
                    experiment_id,
                    name=f"{study.name} · {study.config.preset} · {study.digest[:7]}",
                    plan=study.digest,
                    tags={EXPERIMENT: self.experiment, "harness.preset": study.config.preset},
                    params=text({**setting(study.config), "split": study.split, **study.identity["space"]}),
                    description=f"{study.title}. Children: one run per trial.",
                )
            self._parent = (experiment_id, run)
        return self._parent

    def child(self, number: int, params: Mapping[str, object], seed: int) -> str:
        """Return a trial's run."""
        job = self.study.job(params, seed)
        config = job.config
        options = {key: value for member in job.members for key, value in config["decoder"][member.decoder].items()}
        with self.store.lock:
            return self.tracking.child(
                *self.parent(),
                name=f"trial-{number:03d} {self.study.label(params)}"
                + (f" seed {seed}" if self.default(params) or seed != self.study.config["seed"] else ""),
                key={"harness.role": "trial", TRIAL: f"{self.study.name}.{number}"},
                tags={"harness.seed": str(seed), "harness.preset": config.preset},
                params=text({"seed": seed, **setting(config), **options, **params}),
            )

    def default(self, params: Mapping[str, object]) -> bool:
        """Return whether these are the configuration's own values."""
        return dict(params) == self.study.default

    def trial(self, plan: Plan, live: Live) -> Silent:
        """Return what hears of a trial's jobs."""
        return PruningPublisher(TrialPublisher(self, plan, live), self.study, plan, live)

    def close(self, trial: Trial) -> None:
        """Upload outcome, final numbers, and who did the work."""
        seed = int(trial.facts.get("seed", self.study.config["seed"]))
        job = self.study.job(trial.params, seed)
        plan = self.study.plan(trial.params, seed, self.root)
        run = self.child(trial.number, trial.params, seed)
        trained = plan.jobdir(job.members[0])
        worked = known_run(trained, self.store)
        facts = {
            tags.OUTCOME: OUTCOME.get(trial.state, trial.state),
            tags.REASON: str(trial.facts.get("reason") or ""),
            "harness.recipe": job.config_hash,
            FINGERPRINT: job.fingerprint,
            "harness.directory": str(plan.directory(job)),
        }
        points = []
        if worked is None:  # it was told nothing while the training ran
            points += Replay().hear(read_events(trained.events_file)[0])
        elif worked != run:
            facts[SOURCE] = worked
        if worked != run:
            every, when = self.study.config.train.evaluate_every or 1, self._when(trained)
            key, there = f"{self.study.split}/miou", {(name, step) for name, _, step, _ in points}
            looks = {part * every: value for part, value in trial.looks.items()}
            points += [(key, value, step, when) for step, value in looks.items() if (key, step) not in there]
        if trial.state == "complete":
            record = records.read_evaluation(plan.directory(job))
            if record.videos:
                facts |= provenance_tags(record.provenance)
                when = self._when(plan.jobdir(job))
                points += [(f"final/{key}", round(value, 4), 0, when) for key, value in record.final.items()]
        self.tracking.log(run, points)
        self.tracking.tag(run, facts)
        self.tracking.finish(run, "FAILED" if trial.state == "failed" else "FINISHED")

    @staticmethod
    def _when(files: JobDir) -> int:
        return round(1000 * files.outcome_file.stat().st_mtime) if files.outcome_file.exists() else 0

    def catch_up(self, trials: Sequence[Trial]) -> None:
        """Upload what the store lacks of trials that have ended."""
        names = {f"{self.study.name}.{trial.number}": trial for trial in trials if trial.ended}
        runs = self.tracking.find(self.experiment, names, tag=TRIAL, ended=False)
        for name, trial in names.items():
            run = runs.get(name)
            if run is None or FINGERPRINT not in run.tags or run.status == "RUNNING":  # the tag is close's alone
                self.close(trial)

    def pages(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Return the address of each trial's run by its number; empty if the store has no pages."""
        address = view.pages(self.tracking, self.experiment)
        if not address:
            return {}
        names = [f"{self.study.name}.{trial.number}" for trial in trials]
        runs = self.tracking.find(self.experiment, names, tag=TRIAL, ended=False)
        return {name.rpartition(".")[2]: f"{address}{run.run_id}" for name, run in runs.items()}

    def report(self, report: Report, folder: Path, status: str) -> str:
        """Log the report as artefacts of the study's run; return the run's address."""
        experiment_id, run = self.parent()
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            self.tracking.file(run, path, "report")
        self.tracking.note(experiment_id, report_markdown(report))
        self.mark(status)
        return self.tracking.link(run)

    def mark(self, status: str) -> None:
        """Give the study's run its status: at work again, or ended."""
        run = self.parent()[1]
        if status == "RUNNING":
            self.tracking.resume(run)
        else:
            self.tracking.finish(run, status)


class TrialPublisher(Publisher):
    """Tells a trial's run what its training does; a training that has a run already goes on with that."""

    def __init__(self, study_publisher: StudyPublisher, plan: Plan, live: Live) -> None:
        super().__init__(plan, study_publisher.store)
        self._study_publisher, self._live = study_publisher, live

    def _run_of(self, job: Train) -> str:
        """Return the training's run, else the trial's, which is at work in any case."""
        own = self._study_publisher.child(self._live.number, self._live.params, self._live.seed)
        self.store.tracking.resume(own)
        return known_run(self.plan.jobdir(job), self.store) or own


class PruningPublisher(Silent):
    """Passes a trial's journals on, and stops a training that is not worth going on."""

    def __init__(self, publisher: Silent, study: Study, plan: Plan, live: Live) -> None:
        self.publisher, self.study, self.plan, self.live = publisher, study, plan, live

    def begin(self, job: Job) -> None:
        """Continue a training: replay what it has measured already."""
        self.publisher.begin(job)
        if isinstance(job, Train):
            self._ask(job, read_events(self.plan.jobdir(job).events_file)[0])

    def hear(self, job: Job, events: Sequence[Event]) -> None:
        """Upload what a journal has gained; an evaluation on the way is a question to the pruner."""
        self.publisher.hear(job, events)
        self._ask(job, events)

    def end(self, job: Job, outcome: Outcome) -> None:
        """Upload a job's outcome."""
        self.publisher.end(job, outcome)

    def _ask(self, job: Job, events: Sequence[Event]) -> None:
        cells: list[Evaluate] = [cell.job for _, cell in self.plan.experiments[0].cells]
        if not isinstance(job, Train) or len(cells[0].members) > 1:
            return  # an ensemble's member says little of the ensemble
        every = self.study.config.train.evaluate_every or 1
        for step, value in measurements(events, f"{self.study.split}/miou"):
            if self.live.look(round(step / every), value):
                pruning.ask(self.plan.directory(job))
