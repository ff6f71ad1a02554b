"""A job's progress by its journal."""

import logging
from dataclasses import dataclass, field

from harness.common.progress import Progress
from harness.jobdir.replay import Replay
from harness.plan.job import Job, Train

log = logging.getLogger(__name__)

SHOWN = {"train/loss": "loss {:.3f}", "loss": "loss {:.3f}", "time/iterations_per_second": "{:.1f} it/s"}


@dataclass
class JobProgress:
    """A job that is followed."""

    job: Job
    replay: Replay = field(default_factory=Replay)
    offset: int = 0  # bytes of the journal that were read

    def show(self, progress: Progress) -> None:
        """Show the journal's messages, and how far the job is."""
        replay = self.replay
        for message in replay.messages:
            log.info(f"{progress.name(self.job.name)}: {message}")
        replay.messages.clear()
        if not replay.steps:
            return
        note = "  ".join(form.format(replay.values[key]) for key, form in SHOWN.items() if key in replay.values)
        unit = "iterations" if isinstance(self.job, Train) else "videos"
        task = progress.task(self.job.name, unit, key=(progress.heading, self.job))
        task.update(replay.step, replay.steps, note)
        if replay.step >= replay.steps:
            task.finish()
