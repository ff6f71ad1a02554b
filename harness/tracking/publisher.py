"""MLflow is told of a plan while its jobs run and after: a run per plan, under it one per training and per cell.

All of it is read from the root's files, and saying it twice changes nothing: whatever the store missed (it was away,
the run was offline) it hears the next time the same command is given. Without a store nothing is said.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.common.errors import UnfitError
from harness.jobdir.events import Event, read_events
from harness.jobdir.paths import Outcome
from harness.jobdir.replay import Replay
from harness.plan.job import Job, Train
from harness.plan.plan import Experiment, Plan
from harness.results import records
from harness.results.rows import Context, Row
from harness.results.table import Report
from harness.tracking import publish_report, publish_results, tags, training_run
from harness.tracking.client import NOTE, ROLE, Tracking
from harness.tracking.plan_run import PlanRun
from harness.tracking.store import Store
from harness.tracking.training_run import TrainingRun, Upload, job_tags, known_run, log_dataset, params, pulse_tags

COMMAND = "command.txt"
PULSE = 60.0  # seconds between two looks that a run's tags give at how far it is


@dataclass(frozen=True)
class Published:
    """An experiment's finished work as the store has it."""

    runs: Mapping[str, str] = field(default_factory=dict)  # a cell's fingerprint -> run id
    pages: str = ""  # where the store shows a run, up to its id
    new: bool = False  # whether any of it was told just now


class Silent:
    """Says nothing; what a run without a store has, and the interface of those that tell one."""

    def open(self, jobs: Sequence[Job]) -> None:
        """Mark the plan's runs that hold jobs about to be run as at work."""

    def probe(self, jobs: Sequence[Job], command: Sequence[str]) -> None:
        """Try that the plan's runs that hold these jobs take an artefact and give it back. Raise UnfitError."""

    def begin(self, job: Job) -> None:
        """Open a training's run, or go on with the one it has; replay the points that are already final."""

    def hear(self, job: Job, events: Sequence[Event]) -> None:
        """Upload a journal's final events in pieces, and now and then the job's progress."""

    def end(self, job: Job, outcome: Outcome) -> None:
        """Close a training's run with its true status."""

    def catch_up(self, experiment: Experiment) -> Published:  # noqa: ARG002
        """Upload finished work that the store lacks. Raise UnfitError if the store does not answer."""
        return Published()

    def report(
        self, experiment: Experiment, report: Report, folder: Path, status: str, rows: Sequence[Row], facts: Context
    ) -> None:
        """Upload the report and end the plan's run with its true status. Raise UnfitError as `catch_up` does."""

    def close(self, experiment: Experiment, status: str) -> None:
        """End the plan's run without a report, if it was opened here."""

    def link(self, experiment: Experiment) -> str:  # noqa: ARG002
        """Return the address of the plan's run; empty without a store."""
        return ""


class Publisher(Silent):
    """Tells a store of one plan; `afresh` trusts no note of what was told.

    A store that goes away while jobs run stops nothing: points wait, a job whose run could not be made is tried again,
    and what the store still lacks at the end it is told by the next run of the same command or by `harness sync`.
    """

    def __init__(self, plan: Plan, store: Store, afresh: bool = False) -> None:
        self.plan, self.store = plan, store
        self.plan_runs = {experiment.name: PlanRun(self.store, plan, experiment) for experiment in plan.experiments}
        self._afresh = afresh
        self._late: set[Job] = set()  # trainings that began while the store was away
        self._runs: dict[Job, TrainingRun] = {}
        self._replays: dict[Job, Replay] = {}  # of jobs that have no run
        self._pulsed: dict[Job, float] = {}  # monotonic seconds

    def open(self, jobs: Sequence[Job]) -> None:
        """Resume the runs of the plans that hold these jobs."""
        with self.store.asking():
            for plan_run in self.plan_runs.values():
                if any(job in plan_run.experiment.jobs for job in jobs):
                    plan_run.resume()

    def probe(self, jobs: Sequence[Job], command: Sequence[str]) -> None:
        """Leave the command as the artefact command.txt of the plans' runs, and read it back.

        Raise UnfitError where the store refuses; a run that was made for it is FAILED then, others stay as they are.
        """
        text = " ".join(command)
        for plan_run in self.plan_runs.values():
            if any(job in plan_run.experiment.jobs for job in jobs):
                try:
                    self._probe(plan_run.run, text)
                except UnfitError:
                    with suppress(UnfitError):
                        plan_run.abandon()
                    raise

    def _probe(self, run: str, text: str) -> None:
        self.store.tracking.text(run, COMMAND, text)
        with TemporaryDirectory() as folder:
            answer = self.store.tracking.download(run, COMMAND, Path(folder)).read_text()
        if answer != text:
            raise UnfitError(f"{self.store.name}: its artefact store returned a different {COMMAND} than was stored")

    def begin(self, job: Job) -> None:
        """Make or find a training's run, and hear its journal from the start."""
        if not isinstance(job, Train):
            return
        self._late.add(job)
        with self.store.asking():
            with self.store.lock:
                run = self._run_of(job)
                afresh = self._afresh and job not in self._runs
                self._runs[job] = TrainingRun(self.store, self.plan.jobdir(job), run, afresh)
            self.store.tracking.resume(run)
            log_dataset(self.store.tracking, run, job, "train", "training")
            self._late.discard(job)
        if job not in self._late:
            self.hear(job, read_events(self.plan.jobdir(job).events_file)[0])

    def _run_of(self, job: Train) -> str:
        """Return the run that a training goes on in, made where there is none."""
        files = self.plan.jobdir(job)
        parent = next(plan_run for plan_run in self.plan_runs.values() if job in plan_run.experiment.jobs)
        ids = parent.ids()
        return known_run(files, self.store) or self.store.tracking.child(
            *ids,
            name=f"train/{job.decoder}/seed{job.config['seed']}",
            key={
                ROLE: "train",
                "harness.fingerprint": job.fingerprint,
                "harness.made": str(records.provenance(files.folder).get("made")),
            },
            tags=job_tags(files, job) | {NOTE: f"{parent.experiment.title}: {job.name}."},
            params=params(job),
        )

    def hear(self, job: Job, events: Sequence[Event]) -> None:
        """Fold events in, and tell some of what waits unless the store rests."""
        run = self._runs.get(job)
        if run is not None:
            run.hear(events)
        else:
            self._replays.setdefault(job, Replay()).hear(events)
        if self.store.resting:
            return
        if job in self._late:
            self.begin(job)  # which hears the whole journal
            return
        if run is not None and run.waiting:
            with self.store.asking():
                run.send(training_run.POINTS)
        if time.monotonic() - self._pulsed.get(job, float("-inf")) >= PULSE:
            self._pulsed[job] = time.monotonic()
            with self.store.asking():
                self._pulse(job)

    def _pulse(self, job: Job) -> None:
        if job in self._runs:
            self._runs[job].pulse()
            return
        for plan_run in self.plan_runs.values():
            plan_run.tag_live(job, pulse_tags(self._replays[job]))

    def drain(self, job: Job) -> None:
        """Upload all final events of a training that was begun, however many."""
        if job in self._runs and not self.store.resting:
            with self.store.asking():
                self._runs[job].send_all()

    def end(self, job: Job, outcome: Outcome) -> None:
        """Close a training's run with its true status."""
        if not isinstance(job, Train):
            return
        if job in self._late:
            self.begin(job)
        if job in self._runs:
            with self.store.asking():
                self._runs[job].end(job, outcome)

    def catch_up(self, experiment: Experiment) -> Published:
        """Upload finished trainings, then every cell with its final numbers."""
        plan_run = self.plan_runs[experiment.name]
        new = self._afresh or not plan_run.up_to_date()
        if new:
            for job in experiment.jobs:
                if isinstance(job, Train) and self.plan.state(job) == "done" and not self._uploaded(job):
                    outcome = self.plan.jobdir(job).outcome()
                    assert outcome is not None
                    self.begin(job)
                    self.end(job, outcome)
            publish_results.publish(plan_run)
        return Published(plan_run.cell_runs(), plan_run.pages(), new)

    def _uploaded(self, job: Train) -> bool:
        if self._afresh and job not in self._runs:
            return False
        files = self.plan.jobdir(job)
        return Upload.read(files, self.store).told and known_run(files, self.store) is not None

    def ending(self, job: Job) -> tuple[str, str] | None:
        """Return the status and outcome that the store has of a training; None where it has none."""
        run = known_run(self.plan.jobdir(job), self.store)
        if run is None or (self._afresh and job not in self._runs):
            return None
        stored = self.store.tracking.get(run)
        return stored.status, tags.value(stored.tags, tags.OUTCOME) or ""

    def report(
        self, experiment: Experiment, report: Report, folder: Path, status: str, rows: Sequence[Row], facts: Context
    ) -> None:
        """Upload the report, and what a reviewer asks beside it."""
        plan_run = self.plan_runs[experiment.name]
        plan_run.report(report, folder, status)
        publish_report.review(plan_run, rows, facts)
        plan_run.complete()

    def close(self, experiment: Experiment, status: str) -> None:
        """End the plan's run."""
        self.plan_runs[experiment.name].close(status)

    def link(self, experiment: Experiment) -> str:
        """Return the address of the plan's run."""
        return self.plan_runs[experiment.name].link()


def publisher_of(plan: Plan, tracking: Tracking | None) -> Silent:
    """Return what tells a store of a plan; without a store, what says nothing."""
    return Silent() if tracking is None else Publisher(plan, Store(tracking, plan.root))
