"""What MLflow hears of a study: a parent run, and under it one run a trial, `trial-007 m=0.031 poly`.

A trial's run is its training's run too: the curve, the evaluations on the way and the final numbers stand in one
place. Where another experiment has made the training, the trial has the numbers and says which run did the work.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.jobdir import events as journal
from harness.jobdir import pruning
from harness.jobdir.replay import Curve
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Plan, setting
from harness.plan.study import Study, Trial
from harness.results import records
from harness.results.table import Report, report_markdown
from harness.search.storage import Live
from harness.tracking.client import FINGERPRINT, SOURCE, Tracking
from harness.tracking.publisher import Publisher, provenance_tags, text

TRIAL = "harness.trial"  # study.number
OUTCOME = {"complete": "finished"}  # the others are called as they are


class Telling:
    """Tells the store of one study; `tracking` None says nothing."""

    def __init__(self, study: Study, root: Path, tracking: Tracking | None, say: Callable[[str], None]) -> None:
        self.study, self.root, self.tracking, self.say = study, root, tracking, say
        self._lock = FileLock(root / ".mlflow.lock", timeout=600)  # no run is made twice by all who see the root
        self._parent: tuple[str, str] | None = None

    @property
    def experiment(self) -> str:
        """The experiment's name in MLflow."""
        return f"search_{self.study.search}"

    def parent(self) -> tuple[str, str]:
        """Ids of the experiment and of the study's run; made at the first need, continued by the same study."""
        assert self.tracking is not None
        if self._parent is None:
            study = self.study
            with self._lock:
                place = self.tracking.experiment(self.experiment)
                run = self.tracking.parent(
                    place,
                    name=f"{study.name} · {study.config.preset} · {study.digest[:7]}",
                    plan=study.digest,
                    tags={"harness.experiment": self.experiment, "harness.preset": study.config.preset},
                    params=text({**setting(study.config), "split": study.split, **study.identity["space"]}),
                    description=f"{study.title}. Children: one run per trial.",
                )
            self._parent = (place, run)
        return self._parent

    def child(self, number: int, params: Mapping[str, Any], seed: int) -> str:
        """A trial's run."""
        assert self.tracking is not None
        job = self.study.job(params, seed)
        config = job.config
        options = {key: value for member in job.members for key, value in config["decoder"][member.decoder].items()}
        with self._lock:
            return self.tracking.child(
                *self.parent(),
                name=f"trial-{number:03d} {self.study.said(params)}"
                + (f" seed {seed}" if self.default(params) else ""),
                key={"harness.role": "trial", TRIAL: f"{self.study.name}.{number}"},
                tags={"harness.seed": str(seed), "harness.preset": config.preset},
                params=text({"seed": seed, **setting(config), **options, **params}),
            )

    def default(self, params: Mapping[str, Any]) -> bool:
        """Whether these are the configuration's own values."""
        return dict(params) == self.study.default

    def close(self, trial: Trial) -> None:
        """A trial's last word: outcome, final numbers, and who did the work. Saying it again changes nothing."""
        if self.tracking is None:
            return
        seed = int(trial.facts.get("seed", self.study.config["seed"]))
        job = self.study.job(trial.params, seed)
        plan = self.study.plan(trial.params, seed, self.root)
        run = self.child(trial.number, trial.params, seed)
        worked = Teller(self, plan, None).known_run(job.members[0])
        tags = {
            "harness.outcome": OUTCOME.get(trial.state, trial.state),
            "harness.reason": str(trial.facts.get("reason") or ""),
            "harness.recipe": job.config_hash,
            FINGERPRINT: job.fingerprint,
            "harness.directory": str(plan.directory(job)),
        }
        points = []
        if worked is None:  # it was told nothing while the training ran
            points += Curve().hear(journal.read(plan.directory(job.members[0]) / "events.jsonl")[0])
        elif worked != run:
            tags[SOURCE] = worked
        if worked != run:
            every, when = self.study.config.train.evaluate_every or 1, self._when(plan, job.members[0])
            key, there = f"{self.study.split}/miou", {(name, step) for name, _, step, _ in points}
            looks = {part * every: value for part, value in trial.looks.items()}
            points += [(key, value, step, when) for step, value in looks.items() if (key, step) not in there]
        if trial.state == "complete":
            found = records.read_evaluation(plan.directory(job))
            if found.videos:
                tags |= provenance_tags(found.provenance)
                when = self._when(plan, job)
                points += [(f"final/{key}", round(value, 4), 0, when) for key, value in found.final.items()]
        self.tracking.log(run, points)
        self.tracking.tag(run, tags)
        self.tracking.finish(run, "FAILED" if trial.state == "failed" else "FINISHED")

    @staticmethod
    def _when(plan: Plan, job: Job) -> int:
        path = plan.directory(job) / "outcome.json"
        return round(1000 * path.stat().st_mtime) if path.exists() else 0

    def catch_up(self, trials: Sequence[Trial]) -> None:
        """Tell what the store lacks of trials that have ended."""
        if self.tracking is None:
            return
        names = {f"{self.study.name}.{trial.number}": trial for trial in trials if trial.ended}
        known = self.tracking.find(self.experiment, names, tag=TRIAL, ended=False)
        for name, trial in names.items():
            run = known.get(name)
            if run is None or FINGERPRINT not in run.tags or run.status == "RUNNING":  # the tag is close's alone
                self.close(trial)

    def report(self, report: Report, folder: Path, status: str) -> str:
        """The report as artefacts of the study's run; returns where a person opens it."""
        if self.tracking is None:
            return ""
        place, run = self.parent()
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            self.tracking.file(run, path, "report")
        self.tracking.note(place, report_markdown(report))
        self.mark(status)
        return self.tracking.link(run)

    def mark(self, status: str) -> None:
        """The study's run is at work again, or has ended."""
        if self.tracking is None:
            return
        run = self.parent()[1]
        if status == "RUNNING":
            self.tracking.resume(run)
        else:
            self.tracking.finish(run, status)


class Teller(Publisher):
    """What the store and the study hear of a trial while it runs; a training that is not worth going on is stopped."""

    def __init__(self, telling: Telling, plan: Plan, live: Live | None) -> None:
        super().__init__(plan, telling.tracking, telling.say)
        self.telling, self.live = telling, live

    def begin(self, job: Job) -> None:
        """A training goes on with the run that it has, else in the trial's; what it has told already is replayed."""
        if not isinstance(job, Train):
            return
        if self.tracking is not None and self.live is not None:
            self._missed.add(job)
            with self._patience():
                own = self.telling.child(self.live.number, self.live.params, self.live.seed)
                run = self._known_run(job) or own
                for each in {own, run}:
                    self.tracking.resume(each)
                self._dataset(run, job, "train", "training")
                self._enter(job, run)
                self._missed.discard(job)
        self.hear(job, journal.read(self.plan.directory(job) / "events.jsonl")[0])

    def hear(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """Pass on what a journal has gained; an evaluation on the way is a question to the pruner."""
        super().hear(job, events)
        study, live = self.telling.study, self.live
        cells: list[Evaluate] = [cell.job for _, cell in self.plan.experiments[0].cells]
        if live is None or not isinstance(job, Train) or len(cells[0].members) > 1:
            return  # an ensemble's member says little of the ensemble
        every = study.config.train.evaluate_every or 1
        for event in events:
            value = event.get("values", {}).get(f"{study.split}/miou") if event["event"] == "metrics" else None
            if value is not None and live.look(round(event["step"] / every), value):
                pruning.ask(self.plan.directory(job))

    def known_run(self, job: Job) -> str | None:
        """The run that a training's curve stands in; None where it has none."""
        return self._known_run(job)
