"""Jobs in turn, with a launcher that does what a test says in place of a worker; the files are real."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from harness.common.atomic_files import write_json
from harness.common.progress import SILENT, Progress
from harness.common.signals import Stopped
from harness.config.compose import compose
from harness.jobdir import lease
from harness.jobdir.lease import Claim
from harness.jobdir.paths import Outcome
from harness.launch import runner, supervisor
from harness.launch.launchers import _log
from harness.launch.scheduler import Scheduler
from harness.plan import plan
from harness.plan.job import Job, Train
from harness.plan.outcome import FAILED
from harness.plan.plan import Plan
from harness.tracking.publisher import Silent

SMALL = ("data.synthetic.train_videos=2", "data.synthetic.val_videos=1")


class Script:
    """A launcher whose launches end as told: 'finished', 'failed', 'stalls' (never), 'paused'."""

    def __init__(self, *endings: str) -> None:
        self.log = Path("none.log")
        self.endings = list(endings)
        self.started: list[Path] = []
        self.specs: list[dict[str, Any]] = []
        self.hangs = False

    def start(self, directories: list[Path]) -> None:
        ending = self.endings.pop(0) if self.endings else "finished"
        for directory in directories:
            self.started.append(directory)
            self.specs.append(json.loads((directory / "job.yaml").read_text()))
            if ending != "stalls":
                write_json(directory / "outcome.json", {"status": ending, "reason": "as told"})
        self.hangs = ending == "stalls"

    def running(self) -> bool:
        return self.hangs

    def signal(self, number: int) -> None:
        self.hangs = False

    def close(self) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    return plan.make(["ablation_ensemble"], compose("demo", SMALL), tmp_path)


def run(made: Plan, launcher: Script, stall: float = 10.0) -> Scheduler:
    scheduler = Scheduler(made, made.jobs)
    scheduler.run(launcher, Silent(), SILENT, {"stall": stall})
    return scheduler


def test_evaluations_of_one_pass_know_who_shared_it(made: Plan) -> None:
    run(made, Script())
    evaluations = {job.fingerprint for job in made.jobs if not isinstance(job, Train)}
    assert len(evaluations) == 4
    for job in made.jobs:
        launch = made.jobdir(job).how().get("launch")
        assert set(launch or ()) == (evaluations if job.fingerprint in evaluations else set())


def test_all_run_once_and_every_lease_is_given_back(made: Plan) -> None:
    launcher = Script()
    scheduler = run(made, launcher)
    assert scheduler.executed == len(made.jobs) == len(launcher.started)
    assert not scheduler.failures
    assert all(lease.current_holder(made.directory(job)) is None for job in made.jobs)
    assert all(spec["attempt"] == 1 and spec["stall"] == 10 for spec in launcher.specs)


def test_a_stalled_launch_is_ended_and_resumed_once(made: Plan, caplog: pytest.LogCaptureFixture) -> None:
    launcher = Script("stalls", *["finished"] * 9)
    scheduler = run(made, launcher, stall=0.01)
    first = launcher.started[0]
    assert launcher.started.count(first) == 2
    assert [spec["attempt"] for spec in launcher.specs if spec["fingerprint"] == first.name] == [1, 2]
    assert any("stacks of all ranks" in line for line in caplog.messages)
    assert not scheduler.failures
    assert scheduler.executed == len(made.jobs)


def test_a_launch_that_stalls_again_fails(made: Plan) -> None:
    class Hangs(Script):
        def start(self, directories: list[Path]) -> None:
            self.endings = ["stalls" if directories[0] == made.directory(made.jobs[0]) else "finished"]
            super().start(directories)

    launcher = Hangs()
    scheduler = run(made, launcher, stall=0.01)
    assert launcher.started.count(made.directory(made.jobs[0])) == 2
    assert "no step for 0.01 minutes" in scheduler.failures[made.jobs[0]]
    assert any("which failed" in reason for reason in scheduler.failures.values())


@pytest.mark.parametrize("word", FAILED)
def test_what_has_failed_is_not_to_be_had_by_who_does_not_run_it(made: Plan, word: str) -> None:
    job = made.jobs[0]
    made.directory(job).mkdir(parents=True)
    write_json(made.directory(job) / "outcome.json", {"status": word, "reason": "a bad disk"})
    assert runner.blocked(made, [])[job] == "a bad disk"


@pytest.mark.parametrize("word", ["failed", "stalled"])
def test_a_failure_of_the_run_that_is_waited_for_is_its_result(
    made: Plan, monkeypatch: pytest.MonkeyPatch, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    job, launcher = made.jobs[0], Script()
    got = Claim(made.directory(job)).take()
    assert got is not None

    def other_run_fails(seconds: float) -> None:
        write_json(made.directory(job) / "outcome.json", {"status": word, "reason": "a bad disk"})
        got.renew(released=True)

    monkeypatch.setattr("harness.launch.scheduler.time.sleep", other_run_fails)
    scheduler = run(made, launcher)
    assert (made.directory(job) in launcher.started) == (word == "stalled"), "a first stall is taken up"
    assert scheduler.failures.get(job, "").startswith("a bad disk (in ") == (word == "failed")
    assert any("is running it; its result" in line for line in caplog.messages)


def test_a_launch_whose_lease_is_lost_is_left_to_the_other(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made.jobs[0]
    got = Claim(made.directory(job)).take()
    assert got is not None
    launcher = Script("stalls")
    with monkeypatch.context() as patch:
        patch.setattr(lease, "machine", lambda: "another")
        other = Claim(made.directory(job), dead=0.0).take()
        assert other is not None
    got.renew()
    begun = time.monotonic()
    outcomes = supervisor.supervise(made, {job: got}, launcher, Silent(), SILENT, {"stall": 10.0})
    assert outcomes[job].status == "superseded"
    assert time.monotonic() - begun < 60
    assert not (made.directory(job) / "outcome.json").exists()


@pytest.mark.parametrize("stopped", [False, True], ids=["ended", "by a signal"])
def test_a_supervisor_that_was_taken_over_writes_nothing(
    made: Plan, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Its ranks end before it next counts, so that it has not seen the new attempt yet."""
    job = made.jobs[0]
    got = Claim(made.directory(job)).take()
    assert got is not None

    class TakenOver(Script):
        def start(self, directories: list[Path]) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(lease, "machine", lambda: "another")
                assert Claim(made.directory(job), dead=0.0).take() is not None
            if stopped:
                raise Stopped(signal.SIGTERM)

    arguments = (made, {job: got}, TakenOver(), Silent(), SILENT, {"stall": 10.0})
    if stopped:
        with pytest.raises(Stopped):
            supervisor.supervise(*arguments)
    else:
        assert supervisor.supervise(*arguments)[job].status == "superseded"
    assert not (made.directory(job) / "outcome.json").exists()


def test_ranks_that_hang_behind_a_failed_one_are_ended(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneFails(Script):
        def start(self, directories: list[Path]) -> None:
            super().start(directories)
            self.hangs = True

    monkeypatch.setattr(supervisor, "HANGING", 0)
    launcher, job = OneFails("failed"), made.jobs[0]
    got = Claim(made.directory(job)).take()
    assert got is not None
    outcomes = supervisor.supervise(made, {job: got}, launcher, Silent(), SILENT, {"stall": 10.0})
    assert outcomes[job] == Outcome("failed", "as told")
    assert not launcher.hangs


def test_the_last_line_of_a_worker_holds_no_password(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("Traceback\nOSError: postgresql://u:s3cret@host/db\n\n")
    assert _log.last_line(log) == f"OSError: postgresql://u:***@host/db (see {log})"
    log.write_text("1: 1/2 clients joined\nsrun: error: two: task 1: Exited with exit code 1\n")
    assert _log.last_line(log) == f"1: 1/2 clients joined (see {log})"


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "at work"])
def test_where_the_supervisor_errs_each_job_gets_its_true_end(made: Plan, finished: bool) -> None:
    told: list[tuple[str, str]] = []

    class Hears(Silent):
        def end(self, job: Job, outcome: Outcome) -> None:
            told.append((outcome.status, str(outcome.reason)))

    class Works(Script):
        def start(self, directories: list[Path]) -> None:
            if finished:
                super().start(directories)
            self.hangs = True
            (directories[0] / "events.jsonl").write_text('{"event": "begin", "time": 0, "step": 0, "steps": 1}\n')

    class Breaks(Progress):
        def task(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("a defect")

    job, launcher = made.jobs[0], Works()
    got = Claim(made.directory(job)).take()
    assert got is not None
    with pytest.raises(RuntimeError):
        supervisor.supervise(made, {job: got}, launcher, Hears(), Breaks(), {"stall": 10.0})
    assert told == [("finished", "as told") if finished else ("failed", "a defect")]
    assert not launcher.hangs
