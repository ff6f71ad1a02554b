"""How long ranks may take to stop: a step that takes minutes is finished and saved first."""

import json
import signal
import time
from pathlib import Path

import pytest

from harness.common.progress import SILENT
from harness.common.signals import Stopped
from harness.config.compose import compose
from harness.launch import supervisor
from harness.launch.progress import JobProgress
from harness.plan import plan
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Plan
from harness.tracking.publisher import Silent

SMALL = ("data.synthetic.train_videos=2", "data.synthetic.val_videos=1")


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    return plan.make(["ablation_ensemble"], compose("demo", SMALL), tmp_path)


def heard(made: Plan, kind: type[Job], *events: tuple[str, int, float]) -> JobProgress:
    """What a supervisor knows that has read events (word, step, time) of the first job of a kind."""
    job = next(job for job in made.jobs if isinstance(job, kind))
    made.directory(job).mkdir(parents=True)
    lines = [{"event": word, "time": when, "step": step, "steps": 9} for word, step, when in events]
    (made.directory(job) / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    progress = JobProgress(job)
    supervisor.follow(made, Silent(), SILENT, progress)
    return progress


def test_two_steps_are_waited_for(made: Plan) -> None:
    slow = heard(made, Train, ("begin", 3, 100), ("metrics", 5, 300), ("progress", 5, 301), ("checkpoint", 5, 311))
    assert slow.replay.pace == 100
    assert supervisor.grace([slow]) == supervisor.GRACE + 200
    assert supervisor.grace([JobProgress(slow.job)]) == supervisor.GRACE, "nothing is known yet"


def test_an_evaluation_stops_at_the_next_frame(made: Plan) -> None:
    video = heard(made, Evaluate, ("begin", 0, 100), ("progress", 1, 700))
    assert supervisor.grace([video]) == supervisor.GRACE


def test_ranks_in_a_slow_step_are_not_killed(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    class Saves:
        """Needs a fifth of a second to stop."""

        log = Path("none.log")

        def __init__(self) -> None:
            self.signals: list[int] = []
            self.until = float("inf")

        def running(self) -> bool:
            return time.monotonic() < self.until

        def signal(self, number: int) -> None:
            self.signals.append(number)
            self.until = 0.0 if number == signal.SIGKILL else time.monotonic() + 0.2

        def warm(self) -> None: ...

        def start(self, directories: object) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(supervisor, "GRACE", 0)
    progress, launcher = heard(made, Train, ("begin", 0, 0), ("progress", 1, 60)), Saves()
    publisher, stopped = Silent(), Stopped(signal.SIGTERM)
    supervisor.stop_launch(made, launcher, publisher, SILENT, {progress.job: progress}, stopped)
    assert launcher.signals == [signal.SIGTERM]
