"""Submit a plan to Slurm: each launch once, and no more at a time than the queue takes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.common.errors import UnfitError
from harness.common.locks import Lock
from harness.jobdir.paths import Outcome, SlurmJob, Submission
from harness.jobdir.stop_request import NewRequests
from harness.launch import slurm_queue
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import Later
from harness.launch.slurm_queue import Queue
from harness.plan.job import Job
from harness.plan.outcome import FAILED, OVER, failed_input
from harness.plan.plan import Plan, launches

log = logging.getLogger(__name__)

ASK = 15.0  # seconds between two looks at Slurm's queue, which all users share

HandIn: TypeAlias = Callable[[Sequence[Job], Sequence[str]], SlurmJob]  # a launch, numbers of what it waits for


@dataclass
class Submitter:
    """A plan's missing jobs on their way into the queue, at most `max_jobs` Slurm jobs of the plan at a time."""

    plan: Plan
    missing: Sequence[Job]
    hand_in: HandIn
    max_jobs: int | None = None
    waiting: dict[SlurmJob, list[Job]] = field(default_factory=dict)  # submitted, by this run or before
    elsewhere: dict[Job, str] = field(default_factory=dict)  # left to a Slurm job that cannot be asked about, and why

    def __post_init__(self) -> None:
        self.left = launches(self.missing)  # not submitted yet
        self._all = len(self.left)
        self._logged = ""
        self._requests = NewRequests(self.plan.stop_files)
        self._tried = 0.0  # monotonic seconds

    def submit(self) -> None:
        """Submit what the queue takes now; the rest stays in `left`.

        Raise Later where the queue cannot be asked: what is in it would be submitted twice; UnfitError where sbatch
        refuses for good.
        """
        self._tried = time.monotonic()
        with Lock(self.plan.output.slurm_lock):  # two who look and then submit would do so twice
            if (request := self._requests()) is not None:
                self._give_up(by_request(request.who))
                return
            submitted = by_slurm_job(self.plan)
            queue = slurm_queue.ask(submitted)
            queued = {job: slurm_job for slurm_job, jobs in submitted.items() if queue.live(slurm_job) for job in jobs}
            self._leave_alone(submitted, queue)
            failures = self._failures(queued)
            while self.left:
                if (why := self._submit_first(queued, failures)) is not None:
                    self._put_off(why)
                    return
                self.left.pop(0)

    def submit_later(self) -> None:
        """Submit once more, if something is left and the queue was not asked within ASK seconds."""
        if self.left and time.monotonic() - self._tried >= ASK:
            try:
                self.submit()
            except Later as error:
                self._put_off(str(error))

    def wait(self) -> None:
        """Wait until all is submitted."""
        while self.left:
            self.submit_later()
            time.sleep(1)

    def _submit_first(self, queued: dict[Job, SlurmJob], failures: Mapping[Job, str]) -> str | None:
        """Submit the first launch of `left`, but for jobs that are queued; why it cannot be now."""
        launch = [job for job in self.left[0] if self.plan.state(job) != "done"]
        for job in launch:
            if job in queued and job not in self.waiting.get(queued[job], []):
                self.waiting.setdefault(queued[job], []).append(job)
            elif (reason := failed_input(job, failures)) is not None:
                cancelled(self.plan, job, reason)
            elif job not in self.elsewhere and any(needed in self.elsewhere for needed in job.inputs):
                self.elsewhere[job] = "it depends on another user's Slurm job; rerun the same command later"
        todo = [
            job for job in launch if job not in queued and job not in self.elsewhere and not failed_input(job, failures)
        ]
        if not todo:
            return None
        busy = len(set(queued.values()))
        if self.max_jobs is not None and busy >= self.max_jobs:
            return f"{busy} are in the queue (--max-jobs {self.max_jobs})"
        after = sorted({queued[needed].id for job in todo for needed in job.inputs if needed in queued}, key=int)
        try:
            slurm_job = self.hand_in(todo, after)
        except Later as error:
            if not busy and not _sbatch.OF_OTHERS.search(str(error)) and _sbatch.own_jobs() == 0:
                raise UnfitError(f"{error}, although none of your jobs is in the queue") from error
            return str(error)
        self._note(todo, slurm_job, after)
        queued |= dict.fromkeys(todo, slurm_job)
        return None

    def _note(self, jobs: list[Job], slurm_job: SlurmJob, after: Sequence[str]) -> None:
        """Write down which Slurm job has these jobs."""
        for job in jobs:
            files = self.plan.jobdir(job)
            files.folder.mkdir(parents=True, exist_ok=True)
            files.outcome_file.unlink(missing_ok=True)
            path = str(self.plan.output.slurm_log(slurm_job.id))
            files.write_submission(Submission(slurm_job, job.name, tuple(after), path))
        self.waiting[slurm_job] = jobs
        behind = f" after {', '.join(after)}" if after else ""
        log.info(f"Slurm job {slurm_job}{behind}: {', '.join(job.name for job in jobs)}")

    def _leave_alone(self, submitted: Mapping[SlurmJob, list[Job]], queue: Queue) -> None:
        """Set jobs apart whose Slurm job cannot be asked about and may be there. Raise Later where it is ours."""
        for slurm_job in queue.silent:
            missing = [job for job in submitted[slurm_job] if job in self.missing and job not in self.elsewhere]
            jobs = [job for job in missing if not over(self.plan, job)]
            if jobs and slurm_job.user in (None, _sbatch.user()):
                raise Later(
                    f"squeue does not answer about Slurm job {slurm_job.whose}, so waiting jobs are unknown: "
                    "nothing was submitted; try again"
                )
            for job in jobs:
                file = self.plan.jobdir(job).slurm_file
                self.elsewhere[job] = (
                    f"left to Slurm job {slurm_job.whose}, which cannot be queried from here; "
                    f"if it no longer exists, remove {file}"
                )
                log.info(f"{job.name}: {self.elsewhere[job]}")

    def _failures(self, queued: Mapping[Job, SlurmJob]) -> dict[Job, str]:
        """Return jobs of Slurm jobs of ours that have ended without a result, with the reason."""
        failures = {}
        for job in [job for jobs in self.waiting.values() for job in jobs if job not in queued]:
            outcome = self.plan.jobdir(job).outcome()
            if outcome is not None and outcome.status in (*FAILED, "cancelled"):
                failures[job] = outcome.reason or outcome.status
        return failures

    def _give_up(self, why: str) -> None:
        """Submit nothing of what is left."""
        log.info(f"{len(self.left)} of {self._all} Slurm jobs are not submitted: {why}")
        for job in [job for launch in self.left for job in launch if self.plan.state(job) != "done"]:
            cancelled(self.plan, job, why)
        self.left.clear()

    def _put_off(self, why: str) -> None:
        """Log what waits, if that has changed."""
        line = f"{len(self.left)} of {self._all} Slurm jobs are still to be submitted: {why}"
        if line != self._logged:
            self._logged = line
            log.info(line)


def by_slurm_job(plan: Plan) -> dict[SlurmJob, list[Job]]:
    """Return the jobs of a plan by the Slurm job that was submitted for them last."""
    jobs: dict[SlurmJob, list[Job]] = {}
    for job in plan.jobs:
        submitted = plan.jobdir(job).submission()
        if submitted is not None:
            jobs.setdefault(submitted.slurm_job, []).append(job)
    return jobs


def over(plan: Plan, job: Job) -> bool:
    """Return whether a job's files say that it is over and will not be taken up again by Slurm."""
    outcome = plan.jobdir(job).outcome()
    return outcome is not None and outcome.status in OVER


def by_request(who: str) -> str:
    """Return why a job was not begun that `who` did not want any more."""
    return f"cancelled by {who} before it started; rerun the same command to run it"


def cancelled(plan: Plan, job: Job, reason: str) -> None:
    """Write down that a job will not be run, and why."""
    plan.directory(job).mkdir(parents=True, exist_ok=True)
    plan.jobdir(job).write_outcome(Outcome("cancelled", reason, exit_code=1))
