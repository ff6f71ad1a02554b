"""Upload to MLflow what it lacks of an output directory: from the files alone, on any host that sees both.

Trainings that nobody runs any more get their true status; finished work and reports that the store lacks are told;
with `follow`, what is at work is told as it goes. Saying it twice changes nothing.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.common.errors import UnfitError
from harness.config.settings import RunOptions
from harness.jobdir.events import read_events
from harness.jobdir.paths import Outcome, OutputDir
from harness.launch import runner, slurm_queue
from harness.launch.slurm_submit import by_slurm_job
from harness.launch.status import DAMAGED, LIVE, Status, examine, look, read
from harness.plan import gc, saved_plans
from harness.plan.job import Job, Train
from harness.plan.outcome import ENDED, FAILED, failed_input, of_plan
from harness.plan.plan import Plan
from harness.tracking.client import FINGERPRINT, PLAN, Tracking
from harness.tracking.plan_run import PlanRun
from harness.tracking.publisher import Publisher
from harness.tracking.store import Store

log = logging.getLogger(__name__)

LOST = "its supervisor died without reporting a reason; rerun the same command to continue"
EVERY = 10.0  # seconds between two looks of --follow


@dataclass
class Sync:
    """One root and one store; `afresh` trusts no note of what the store was told before."""

    root: Path
    tracking: Tracking
    afresh: bool = False
    publishers: dict[str, Publisher] = field(default_factory=dict)  # by the plan's digest
    offsets: dict[Job, int] = field(default_factory=dict)  # bytes of a live job's journal that were told
    refused: set[str] = field(default_factory=set)  # plans that cannot be made again, by the reason
    concluded: dict[str, object] = field(default_factory=dict)  # by the plan's digest: as what its report was told

    def once(self) -> int:
        """Upload all that is there; return how many jobs run or wait. Raise UnfitError if the store is away."""
        statuses = {status.fingerprint: status for status in look(self.root, everything=True)}
        for plan, why in saved_plans.plans(self.root):
            why = why if plan is None else damage(plan, statuses)
            if plan is not None and not why:
                self.tell(plan, statuses)
            elif why not in self.refused:
                self.refused.add(why)
                log.warning(f"skipped: {why}")
        self.close_strays(statuses)
        end_rehearsal(OutputDir(self.root).rehearsal, self.tracking)
        return sum(status.state in LIVE for status in statuses.values())

    def follow(self, every: float = EVERY) -> None:
        """Repeat `once` until nothing runs or waits; a store that is away is asked again."""
        while True:
            try:
                live = self.once()
                if not live:
                    return
            except UnfitError as error:
                log.warning(f"{error}; will try again")
            time.sleep(every)

    def tell(self, plan: Plan, statuses: dict[str, Status]) -> None:
        """Upload a plan: live trainings as far as they are, dead ones with their end, finished jobs and the report."""
        (experiment,) = plan.experiments
        publisher = self.publishers.setdefault(
            experiment.digest, Publisher(plan, Store(self.tracking, self.root), self.afresh)
        )
        lacking = [job for job in experiment.jobs if plan.state(job) != "done"]
        current = {job: statuses[job.fingerprint] for job in lacking if job.fingerprint in statuses}
        live = {job for job, status in current.items() if status.state in LIVE}
        failures = failed(lacking, current)
        for job, status in current.items():
            if status.state == "running":
                self.tell_live(plan, publisher, job)
            elif status.state not in LIVE:
                self.offsets.pop(job, None)
                self.tell_dead(plan, publisher, job, status)
        for job in [job for job in self.offsets if job in experiment.jobs and job not in lacking]:
            del self.offsets[job]
        plan_status = of_plan(lacking, failures, live)
        state = (plan_status, publisher.plan_runs[experiment.name].done(), dict(failures))
        begun = current or len(lacking) < len(experiment.jobs)
        if begun and self.concluded.get(experiment.digest) != state:
            options = RunOptions(command=tuple(saved_plans.facts(self.root, experiment.digest).get("command", ())))
            report = runner.conclude(plan, experiment, publisher, failures, options, plan_status, worked=False)
            self.concluded[experiment.digest] = state if report.away is None else None
        publisher.plan_runs[experiment.name].correct(plan_status)

    def tell_live(self, plan: Plan, publisher: Publisher, job: Job) -> None:
        """Upload what a running job has written since the last call."""
        path = plan.jobdir(job).events_file
        if job not in self.offsets:
            publisher.begin(job)
        events, self.offsets[job] = read_events(path, self.offsets.get(job, 0))
        publisher.hear(job, events)
        publisher.drain(job)

    def tell_dead(self, plan: Plan, publisher: Publisher, job: Job, dead: Status) -> None:
        """Upload a training that ended without a result, or that nobody ended: its points and its true status."""
        if not isinstance(job, Train) or not plan.jobdir(job).how_file.exists():
            return
        outcome = plan.jobdir(job).outcome() or Outcome("lost", LOST)
        status = ENDED.get(outcome.status, "FAILED")
        if publisher.ending(job) == (status, outcome.status):
            return
        publisher.begin(job)
        publisher.end(job, outcome)
        log.info(f"{dead.name}: {outcome.status}; now {status} in MLflow")

    def close_strays(self, statuses: dict[str, Status]) -> None:
        """Close runs of this root's jobs that are RUNNING though their job is over; others are left alone."""
        for run in self.tracking.running():
            status = statuses.get(run.tags.get(FINGERPRINT, ""))
            if status is None or status.state in (*LIVE, DAMAGED):
                continue
            if OutputDir(self.root).job(status.fingerprint).how().get("made") == run.tags.get("harness.made"):
                self.tracking.finish(run.run_id, ENDED.get(status.state, "FAILED"))
                log.info(f"{status.name}: closed a run that was left RUNNING")


def correct(plan: Plan, tracking: Tracking) -> None:
    """Give the plan's runs that the store has their true status. Raise UnfitError where the store does not answer."""
    queue = slurm_queue.ask(by_slurm_job(plan))
    for experiment in plan.experiments:
        lacking = [job for job in experiment.jobs if plan.state(job) != "done"]
        begun = [job for job in lacking if plan.jobdir(job).job_file.exists() or plan.jobdir(job).slurm_file.exists()]
        statuses = {job: examine(plan.jobdir(job), queue, time.time()) for job in begun}
        live = {job for job, status in statuses.items() if status.state in LIVE}
        PlanRun(Store(tracking, plan.root), plan, experiment).correct(of_plan(lacking, failed(lacking, statuses), live))


def end_rehearsal(root: Path, tracking: Tracking) -> None:
    """End the runs that say RUNNING of a rehearsal in `root` that was killed; its files say which they are."""
    own = set(saved_plans.digests(root))
    output = OutputDir(root)
    attempts = {read(files.how_file).get("made") for files in output.job_dirs()} - {None}
    if not own or gc.at_work(output.jobs):
        return
    for run in rehearsals(tracking).running():
        if run.tags.get(PLAN) in own or run.tags.get("harness.made") in attempts:
            tracking.finish(run.run_id, "KILLED")
            log.info(f"{run.name}: closed a dry run's run that was left RUNNING")


def rehearsals(tracking: Tracking) -> Tracking:
    """Return the same store, in which a rehearsal's experiments are rehearsal/…."""
    return Tracking(tracking.uri, f"{tracking.prefix}rehearsal")


def damage(plan: Plan, statuses: Mapping[str, Status]) -> str:
    """Return which damaged file keeps a plan from being uploaded; empty if none does."""
    states = (statuses.get(job.fingerprint) for job in plan.jobs)
    return next((str(status.reason) for status in states if status is not None and status.state == DAMAGED), "")


def failed(lacking: Sequence[Job], statuses: Mapping[Job, Status]) -> dict[Job, str]:
    """Return why jobs have failed, or wait on one that has; `lacking`: those not done, inputs first."""
    failures: dict[Job, str] = {}
    for job in lacking:
        status = statuses.get(job)
        if status is not None and status.state in ("died", *FAILED):
            failures[job] = status.reason or status.state
        elif (reason := failed_input(job, failures)) and (status is None or status.state not in LIVE):
            failures[job] = reason
    return failures
