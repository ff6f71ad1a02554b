"""`harness cancel --study`: a study ended with its checkpoints, here, on other machines and in Slurm.

All that are at it look for its request (jobdir/stop_request.obeyed), whoever they belong to: the commands, which end
their workers as at Ctrl-C, and the workers in Slurm jobs. One that waits in the queue leaves it, or ends as it begins.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from harness.common.errors import UsageError
from harness.common.locks import Lock
from harness.jobdir import lease
from harness.jobdir.lease import Holder
from harness.jobdir.paths import JobDir, OutputDir, SlurmJob, StudyDir
from harness.jobdir.stop_request import StopRequest
from harness.launch import cancel, slurm_queue
from harness.launch.cancel import Cancellation
from harness.search import slurm_workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """A trial that somebody is at, and the job of it that is running, if one is."""

    folder: Path
    name: str
    holder: Holder
    job: JobDir | None

    @property
    def ended(self) -> bool:
        """Whether its holder has let it go."""
        now = lease.current_holder(self.folder)
        return now is None or now.number != self.holder.number


@dataclass
class StudyCanceller:
    """A study that is being ended. Raises UsageError where there is none of that name."""

    root: Path
    name: str
    results: list[Cancellation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = OutputDir(self.root)
        self.study: StudyDir = self.output.study(self.name)
        names = sorted(path.name for path in self.output.searches.glob("*/"))
        if self.name not in names:
            there = f"there are {', '.join(names)}" if names else "there is none"
            raise UsageError(f"--study {self.name}: no study of that name in {self.output.searches}; {there}")

    def run(self) -> list[Cancellation]:
        """End all that are at it, and wait until they have ended. Raise Stopped after a signal to us."""
        works = self._works()
        workers = slurm_workers.noted(self.study)
        with Lock(self.output.slurm_lock) if workers else nullcontext():  # nothing is submitted meanwhile
            try:
                StopRequest().write(self.study.stop_file)
            except OSError as error:
                why = f"you may not ask it to end ({self.study.stop_file}: {error.strerror})"
                for work in works:
                    self._note(work, "left", f"{work.holder.who} is running it, and {why}; ask {work.holder.user}")
                return self.results
            begun = self._empty_queue(workers)
        for work in works:
            log.info(f"{work.name}: {work.holder.who} is running it and was asked to end")
        self._wait(works, begun)
        return self.results

    def _works(self) -> list[Work]:
        """Return the trials that somebody is at, by number."""
        folders = sorted(self.study.trials.glob("*/"))
        holders = {folder: holder for folder in folders if (holder := lease.current_holder(folder)) is not None}
        jobs = {process(holder): job for job in self.output.job_dirs() if holders and (holder := current(job))}
        return [
            Work(folder, f"trial {int(folder.name)} of {self.name}", holder, jobs.get(process(holder)))
            for folder, holder in holders.items()
        ]

    def _empty_queue(self, workers: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Take workers that wait out of the queue; return those that run."""
        queue = slurm_queue.ask(workers)
        for worker in workers:
            name = f"a worker of {self.name}"
            if worker in queue.silent:
                why = f"Slurm job {worker.whose} cannot be queried from here; it will end within seconds of its start"
                self.results.append(Cancellation("", name, "left", why, worker.id))
            elif queue.live(worker) and queue.states[worker].state == "PENDING":
                ours = slurm_queue.cancel(worker)
                waits = f"waiting as Slurm job {worker.whose}; it will end within seconds of its start"
                state, why = ("cancelled", "removed from Slurm's queue") if ours else ("left", waits)
                self.results.append(Cancellation("", name, state, why, worker.id))
        return [worker for worker in workers if queue.live(worker) and queue.states[worker].state != "PENDING"]

    def _wait(self, works: Sequence[Work], begun: Sequence[SlurmJob]) -> None:
        """Wait until trials and Slurm jobs have ended, as long as a supervisor gives its ranks."""
        since = time.monotonic()
        patience = cancel.patience([work.job for work in works if work.job is not None])
        left = list(works)
        while left:
            for work in [work for work in left if work.ended]:
                left.remove(work)
                self._note(work, "stopped", "nothing to save yet" if work.job is None else cancel.standing(work.job))
            if left and time.monotonic() - since > patience:
                for work in left:
                    why = f"{work.holder.who} was asked to end, but has not within {patience:.0f} s"
                    self._note(work, "left", why)
                break
            time.sleep(cancel.LOOK)
        while begun := [worker for worker in begun if slurm_queue.any_live([worker])]:
            if time.monotonic() - since > patience:
                for worker in begun:
                    why = f"Slurm job {worker.whose} was asked to end, but has not within {patience:.0f} s"
                    self.results.append(Cancellation("", f"a worker of {self.name}", "left", why, worker.id))
                break
            time.sleep(4 * cancel.LOOK)

    def _note(self, work: Work, state: str, reason: str) -> None:
        fingerprint = "" if work.job is None else work.job.name
        self.results.append(Cancellation(fingerprint, work.name, state, reason))


def current(job: JobDir) -> Holder | None:
    """Return who holds a job."""
    return lease.current_holder(job.folder)


def process(holder: Holder) -> tuple[str, str | None, int]:
    """Return what tells a holder's process from others."""
    return holder.host, holder.machine, holder.pid
