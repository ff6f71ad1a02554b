"""One worker of a study: takes a trial, runs what is missing of it as any other job, tells how it went, takes the next.

A trial that cannot be run to its end here (a signal, a storage or a machine that is unfit) stays as it is and is taken
up by the next process that comes; one whose training fails on its own account has failed, and counts.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError
from harness.common.progress import Progress
from harness.common.signals import stop_signals
from harness.jobdir import lease
from harness.jobdir.paths import Outcome
from harness.launch.scheduler import Scheduler
from harness.launch.supervisor import Launcher
from harness.plan import gc
from harness.plan.plan import Plan
from harness.plan.study import Study, Trial
from harness.results import records
from harness.search.storage import Keeper, Live
from harness.search.study_publisher import SilentStudyPublisher

log = logging.getLogger(__name__)

ASK = 0.5  # seconds between two looks at what other workers are at
LOST = 3  # attempts at a trial whose ranks die under it


@dataclass(frozen=True)
class Worker:
    """One worker of a study, with all that it needs."""

    study: Study
    keeper: Keeper
    publisher: SilentStudyPublisher
    launcher: Launcher
    root: Path
    facts: JsonObject  # how jobs are run: provenance
    progress: Progress

    def run(self, total: int) -> None:
        """Run trials until `total` of the study have ended. Raise Stopped after a signal."""
        while True:
            live = self.keeper.take(total)
            if live is not None:
                with lease.heartbeat([live.lease]):
                    self.trial(live, total)
            elif self.ended() >= total:
                return
            else:
                with stop_signals():
                    time.sleep(ASK)

    def ended(self) -> int:
        """Return the trials of the study that have ended."""
        return sum(trial.ended for trial in self.keeper.trials())

    def trial(self, live: Live, total: int) -> None:
        """Run a trial and tell how it went."""
        begun = time.monotonic()
        plan = self.study.plan(live.params, live.seed, self.root)
        if live.resumed:
            log.info(f"trial {live.number} ({self.study.label(live.params)}): its worker has died; continuing it")
        gc.refer(self.root, plan.experiments[0].digest, [job.fingerprint for job in plan.jobs])
        trial_publisher = self.publisher.trial(plan, live)
        progress = self.progress.headed(f"trial {live.number} {self.study.label(live.params)}")
        executed = 0
        for attempt in range(LOST):
            scheduler = Scheduler(plan, [job for job in plan.jobs if plan.state(job) != "done"])
            scheduler.run(self.launcher, trial_publisher, progress, self.facts)
            executed += scheduler.executed
            state, reason = how_it_went(plan)
            if state != "lost" or live.lease.superseded or attempt + 1 == LOST:
                break
            log.info(f"trial {live.number}: {reason}; attempt {attempt + 2} of {LOST}")
        if live.lease.superseded:
            return  # another worker took us for dead, and has it
        state = "failed" if state == "lost" else state
        value = score(plan) if state == "complete" else None
        facts = {"reason": reason, "executed": executed, **spent(plan), "seconds": time.monotonic() - begun}
        live.tell(state, value, facts)
        trial = self.keeper.trial(live.number)
        try:
            self.publisher.close(trial)
        except (UnfitError, OSError) as error:
            log.warning(f"{error}; rerun the same command later to upload it")
        kind = "the default" if live.default else "repeated"
        seed = f" seed {live.seed}, {kind}" if live.default or live.repeated else ""
        log.info(
            f"trial {live.number} {self.study.label(live.params)}{seed}: {in_words(trial)} ({self.ended()} of {total})"
        )


def how_it_went(plan: Plan) -> tuple[str, str | None]:
    """Return 'complete', 'pruned', 'failed' or 'lost', by the files, and why. Raise UnfitError for an unfit machine."""
    for job in plan.jobs:
        outcome = plan.jobdir(job).outcome() or Outcome("lost")
        status, reason = outcome.status, outcome.reason
        if status in ("pruned", "lost"):
            return status, reason
        if status != "finished":
            if outcome.exit_code == UnfitError.exit_code:
                raise UnfitError(str(reason))
            return "failed", reason
    return "complete", None


def score(plan: Plan) -> float:
    """Return the mIoU that a trial has come to, in percent."""
    ((_, cell),) = plan.experiments[0].cells
    return records.read_evaluation(plan.directory(cell.job)).final["miou"]


def spent(plan: Plan) -> JsonObject:
    """Return the iterations made of those planned, and seconds in training and evaluation."""
    ((_, cell),) = plan.experiments[0].cells
    outcomes = {job: plan.jobdir(job).outcome() or Outcome("lost") for job in plan.jobs}
    trained = [outcomes[member] for member in cell.job.inputs]
    return {
        "step": sum(outcome.step or 0 for outcome in trained),
        "steps": sum(member.config.iterations() for member in cell.job.inputs),
        "work": sum(outcome.seconds or 0.0 for outcome in outcomes.values()),
        "fingerprint": cell.job.fingerprint,
    }


def in_words(trial: Trial) -> str:
    """Return a trial's outcome in a few words."""
    if trial.state == "complete":
        return f"{trial.value:.2f} mIoU"
    at = f" at iteration {trial.facts.get('step')} of {trial.facts.get('steps')}" if trial.state == "pruned" else ""
    return f"{trial.state}{at}" + (f": {trial.facts.get('reason')}" if trial.state == "failed" else "")
