"""A plan's missing jobs in turn, each run by one of all the processes that want it.

Two people who run overlapping plans on one root share the work: a job that another run holds (jobdir/lease.py) is left
to it while there is something else to do, and then waited for; its result is taken as it comes out.
"""

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.common.atomic_files import JsonObject
from harness.common.progress import Progress
from harness.common.signals import Stopped, stop_signals
from harness.jobdir import lease
from harness.jobdir.lease import Claim, Lease
from harness.jobdir.paths import Outcome
from harness.jobdir.stop_request import NewRequests
from harness.launch.supervisor import Launcher, supervise
from harness.plan.job import Job
from harness.plan.outcome import FAILED, failed_input
from harness.plan.plan import Plan, launches
from harness.tracking.publisher import Silent

log = logging.getLogger(__name__)

ASK = 1.0  # seconds between two looks at jobs that others run


@dataclass
class Scheduler:
    """The state of a plan's missing jobs; valid at any moment, also after a signal."""

    plan: Plan
    waiting: list[Job]
    failures: dict[Job, str] = field(default_factory=dict)  # job -> reason
    executed: int = 0  # jobs run here
    broken: int = 0  # of those, failed
    elsewhere: int = 0  # jobs that another run has finished meanwhile

    def __post_init__(self) -> None:
        self._claims = {job: Claim(self.plan.directory(job)) for job in self.waiting}
        self._reported: set[tuple[Job, str]] = set()
        self._stalled: set[Job] = set()  # and run again, once
        self._requests = NewRequests(self.plan.stop_files)

    def run(self, launcher: Launcher, publisher: Silent, progress: Progress, facts: JsonObject) -> None:
        """Run launches until every job is finished or failed. Raise Stopped after a signal or a request."""
        while self.waiting:
            before = len(self.waiting)
            for launch in launches(self.waiting):
                leases = self.take(self.able(launch))
                if leases:
                    with lease.heartbeat(leases.values()):
                        self.executed += len(leases)
                        outcomes = supervise(self.plan, leases, launcher, publisher, progress, facts)
                    self.note(outcomes)
            if len(self.waiting) == before:
                if (request := self._requests()) is not None:
                    log.info(f"{request.who} asked the runs of this plan to end (`harness cancel`)")
                    raise Stopped(signal.SIGINT)
                with stop_signals():
                    time.sleep(ASK)

    def able(self, launch: Sequence[Job]) -> list[Job]:
        """Return the jobs of a launch whose inputs are there; what needs a failed job is skipped with that reason."""
        able = []
        for job in launch:
            if (reason := failed_input(job, self.failures)) is not None:
                self.fail(job, reason)
            elif not any(needed in self.waiting for needed in job.inputs):
                able.append(job)
        return able

    def take(self, jobs: Sequence[Job]) -> dict[Job, Lease]:
        """Return leases of the jobs that are ours to run; what another run finished, or failed at, is taken from it."""
        leases: dict[Job, Lease] = {}
        for job in jobs:
            claim = self._claims[job]
            awaited = claim.holder
            if awaited is not None and (reason := failed_in(awaited.number, job, self.plan)):
                self.fail(job, f"{reason} (in {awaited.who})")
                continue
            acquired = None if self.plan.state(job) == "done" else claim.take()
            if self.plan.state(job) == "done":
                if acquired is not None:
                    acquired.renew(released=True)
                self.elsewhere += 1
                self.waiting.remove(job)
            elif acquired is not None:
                leases[job] = acquired
            else:
                holder = claim.holder  # None where somebody was faster just now
                if holder is not None and (job, holder.who) not in self._reported:
                    self._reported.add((job, holder.who))
                    log.info(f"{job.name}: {holder.who} is running it; its result will be used when it is ready")
        return leases

    def note(self, outcomes: Mapping[Job, Outcome]) -> None:
        """Record a launch's outcomes; a job that another run took over from us is waited for."""
        for job, outcome in outcomes.items():
            if outcome.status == "finished":
                self.waiting.remove(job)
            elif outcome.status in ("superseded", "paused"):
                self.executed -= 1
                self._claims[job] = Claim(self.plan.directory(job))
            elif outcome.status == "stalled" and job not in self._stalled:
                self._stalled.add(job)
                self.executed -= 1
                log.info(f"{job.name}: {outcome.reason}; it was stopped and resumes from its last checkpoint")
            else:
                self.broken += 1
                self.fail(job, outcome.reason or outcome.status)

    def fail(self, job: Job, reason: str) -> None:
        """Note that a job ended without a result."""
        self.failures[job] = reason
        self.waiting.remove(job)


def failed_in(attempt: int, job: Job, plan: Plan) -> str | None:
    """Return why the attempt that we waited for has failed; None if it has not, or if there is a later one.

    What stalled is nobody's failure yet: whoever comes first goes on with it.
    """
    holder = lease.latest_holder(plan.directory(job))
    if holder is None or not holder.released or holder.number != attempt:
        return None
    outcome = plan.jobdir(job).outcome()
    if outcome is None or outcome.status not in FAILED or outcome.status == "stalled":
        return None
    return str(outcome.reason)
