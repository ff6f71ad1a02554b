"""A plan is ended: what waits leaves the queue, what is at work is signalled or asked, what is another's is left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import one_model
import pytest
from cancelling import Slow
from simulated_slurm import SimulatedSlurm

from harness.common import machine
from harness.common.atomic_files import read_json, write_json
from harness.common.progress import SILENT
from harness.common.signals import Stopped
from harness.config import compose
from harness.config.settings import RunOptions
from harness.jobdir import lease
from harness.jobdir.stop_request import NewRequests, StopRequest
from harness.launch import cancel, mlflow_sync, slurm_jobs
from harness.launch.cancel import Canceller
from harness.launch.launchers import _sbatch
from harness.launch.scheduler import Scheduler
from harness.launch.slurm_submit import Submitter
from harness.plan import plan as planning
from harness.plan.plan import Plan
from harness.tracking.client import Tracking
from harness.tracking.plan_run import PlanRun
from harness.tracking.publisher import Silent
from harness.tracking.store import Store

ME = _sbatch.user()
OPTIONS = RunOptions(launcher="slurm", nproc=1, slurm={"nodes": 1}, offline=True, command=("harness",))
HOLD = """
import signal, sys, time
from pathlib import Path
from harness.jobdir import lease
with lease.heartbeat([lease.Claim(Path(folder)).take() for folder in sys.argv[1:]], every=0.2):
    signal.signal(signal.SIGINT, lambda *_: sys.exit(75))
    print("holds", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedSlurm:
    return SimulatedSlurm.installed(tmp_path / "slurm", ME, monkeypatch)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "LOOK", 0.05)


def submitter(plan: Plan, max_jobs: int | None = None) -> Submitter:
    missing = [job for job in plan.jobs if plan.state(job) != "done"]
    return Submitter(plan, missing, partial(slurm_jobs.hand_in, plan, OPTIONS), max_jobs)


def said(plan: Plan) -> dict[str, tuple[str, str]]:
    return {result.name.split()[0]: (result.state, result.reason) for result in Canceller(plan).run()}


@contextmanager
def holder(*folders: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process of ours that holds jobs as a run does, and ends at Ctrl-C."""
    command = [sys.executable, "-c", HOLD, *map(str, folders)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


@contextmanager
def when(condition: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Do something once, in a thread, when a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def test_a_plan_that_nobody_is_at_is_left_as_it_is(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    assert Canceller(made).run() == []
    assert slurm.cancelled() == ""


def test_what_waits_in_the_queue_leaves_it_as_cancelled(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    submitter(made).submit()
    slurm.put("9", ME, "a big simulation", "PENDING")
    assert {state for state, _ in said(made).values()} == {"cancelled"}
    asked = slurm.cancelled().splitlines()
    assert asked == [f"--user={ME} --name=harness {job.name} {number}" for number, job in enumerate(made.jobs, 1)]
    for job in made.jobs:
        outcome = made.jobdir(job).outcome()
        assert outcome is not None
        assert (outcome.status, outcome.exit_code) == ("cancelled", 1)
        assert f"cancelled by {machine.user()} on " in str(outcome.reason)


@pytest.mark.parametrize("change", [{"user": "anna"}, {"job_name": "another"}, {"user": None, "job_name": None}])
def test_a_number_that_is_not_ours_is_not_cancelled(
    change: dict[str, str | None], slurm: SimulatedSlurm, tmp_path: Path
) -> None:
    made = one_model.made(tmp_path / "runs")
    submitter(made).submit()
    for job in made.jobs:
        file = made.jobdir(job).slurm_file
        write_json(file, {**read_json(file), **change})
    for number in slurm.queued():
        slurm.put(number, change.get("user") or ME, f"harness {made.jobs[int(number) - 1].name}", "PENDING")
    results = said(made)
    assert slurm.cancelled() == ""
    if change == {"job_name": "another"}:  # the number is another's by now: nothing of the plan is there
        assert results == {}
        return
    assert {state for state, _ in results.values()} == {"left"}
    words = "only anna can remove it" if change.get("user") else "does not say whether that is still this job"
    assert all(words in reason for _, reason in results.values())
    assert not any(made.jobdir(job).outcome_file.exists() for job in made.jobs)


def test_what_cannot_be_asked_about_is_left(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    submitter(made).submit()
    (slurm.folder / "bin" / "squeue").write_text("#!/bin/bash\nexit 1\n")
    results = said(made)
    assert {state for state, _ in results.values()} == {"left"}
    assert all("cannot be queried from here" in reason for _, reason in results.values())
    assert slurm.cancelled() == ""


def test_a_slurm_job_that_has_begun_is_signalled_and_waited_for(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    submitter(made).submit()
    training, evaluation = made.jobs
    slurm.put("1", ME, f"harness {training.name}")  # RUNNING
    held = lease.Claim(made.directory(training)).take()
    assert held is not None

    def end() -> None:
        held.renew(released=True)
        slurm.end("1")
        slurm.end("2")

    with when(lambda: "INT" in slurm.cancelled(), end):
        results = Canceller(made).run()
    assert [(result.name, result.state, result.slurm) for result in results] == [
        (training.name, "stopped", "1"),
        (evaluation.name, "cancelled", "2"),
    ]
    assert slurm.cancelled().splitlines() == [
        f"--user={ME} --name=harness {evaluation.name} 2",  # first: it would begin when what it waits for ends
        f"--user={ME} --name=harness {training.name} --signal=INT 1",
    ]
    assert not made.jobdir(training).outcome_file.exists()


def test_a_submitter_that_waits_for_room_submits_no_more(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    config = compose.compose("demo", list(one_model.TINY))
    made = planning.make([one_model.FILE], config, tmp_path / "runs", 3)
    made.output.jobs.mkdir(parents=True)
    made.output.plans.mkdir()
    going = submitter(made, max_jobs=2)
    going.submit()
    assert slurm.queued() == ["1", "2"]
    Canceller(made).run()
    for number in slurm.queued():
        slurm.end(number)
    going.wait()
    assert slurm.queued() == []
    outcomes = [made.jobdir(job).outcome() for job in made.jobs]
    assert [outcome.status if outcome else None for outcome in outcomes] == ["cancelled"] * len(made.jobs)
    again = submitter(made, max_jobs=2)  # a request of before is none
    again.submit()
    assert slurm.queued() == ["3", "4"]


def test_a_process_of_ours_is_interrupted_once_for_all_its_jobs(tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    with holder(*(made.directory(job) for job in made.jobs)) as process:
        results = Canceller(made).run()
        assert process.wait(timeout=30) == 75
    assert [(result.state, result.reason) for result in results] == [("stopped", "nothing to save yet")] * 2
    assert not list(tmp_path.rglob("stop.json"))


@pytest.mark.parametrize("change", [{"user": "ben"}, {"machine": "another"}], ids=["another's", "another machine's"])
def test_a_run_that_no_signal_reaches_is_asked(
    change: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = one_model.made(tmp_path / "runs")
    job = made.jobs[0]
    held = lease.Claim(made.directory(job)).take()
    assert held is not None
    held.holder = replace(held.holder, **change)
    held.renew()
    file = made.jobdir(job).stop_file
    with when(file.exists, lambda: held.renew(released=True)):
        assert said(made) == {"train": ("stopped", "nothing to save yet")}
    request = read_json(file)
    assert (request["attempt"], request["user"]) == (1, machine.user())
    assert f"{job.name}: {held.holder.who} is running it and was asked to end" in caplog.messages


def test_who_has_no_right_to_ask_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = one_model.made(tmp_path / "runs")
    job = made.jobs[0]
    held = lease.Claim(made.directory(job)).take()
    assert held is not None
    held.holder = replace(held.holder, user="ben")
    held.renew()

    def forbidden(self: StopRequest, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(StopRequest, "write", forbidden)
    state, reason = said(made)["train"]
    assert state == "left"
    assert f"you may not ask it to end ({made.jobdir(job).stop_file}: Permission denied); ask ben" in reason


def test_one_that_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "GRACE", 0.1)
    monkeypatch.setattr(cancel, "MARGIN", 0.1)
    made = one_model.made(tmp_path / "runs")
    held = lease.Claim(made.directory(made.jobs[0])).take()
    assert held is not None
    held.holder = replace(held.holder, user="ben")
    held.renew()
    state, reason = said(made)["train"]
    assert state == "left"
    assert "was asked to end, but has not within 0 s" in reason


class Asked(Slow):
    """Work that is asked to end after 2.5 s."""

    def start(self, directories: list[Path]) -> None:
        for directory in directories:
            number = lease.latest(directory)
            StopRequest(number - 1).write(directory / "stop.json")  # of the attempt before: not ours
            self.later = threading.Timer(2.5, StopRequest(number, user="ben").write, [directory / "stop.json"])
            self.later.start()


def test_a_supervisor_ends_when_it_is_asked_as_at_ctrl_c(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = one_model.made(tmp_path / "runs")
    launcher = Asked()
    begun = time.monotonic()
    with pytest.raises(Stopped) as stop:
        Scheduler(made, list(made.jobs)).run(launcher, Silent(), SILENT, {"stall": 10.0})
    assert time.monotonic() - begun > 2.4, "the request to an earlier attempt is none"
    assert (stop.value.number, launcher.signals) == (signal.SIGINT, [signal.SIGINT])
    training, evaluation = made.jobs
    outcome = made.jobdir(training).outcome()
    assert outcome is not None
    assert outcome.status == "cancelled"
    assert lease.current_holder(made.directory(training)) is None
    assert not made.directory(evaluation).exists(), "what would have come next is not begun"
    assert any("ben on " in line and "asked this run to end" in line for line in caplog.messages)


def test_a_run_that_waits_for_anothers_job_ends_too(tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    held = lease.Claim(made.directory(made.jobs[0])).take()
    assert held is not None
    scheduler = Scheduler(made, list(made.jobs))
    (file,) = made.stop_files
    StopRequest(user="somebody else").write(file)  # their runs, not ours
    timer = threading.Timer(1.5, StopRequest().write, [file])
    timer.start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        scheduler.run(Slow(), Silent(), SILENT, {"stall": 10.0})
    assert time.monotonic() - begun > 1.4
    assert NewRequests([file])() is None


def test_the_plans_run_in_mlflow_ends(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    run = PlanRun(Store(tracking, made.root), made, made.experiments[0])
    submitter(made).submit()
    assert tracking.get(run.run).status == "RUNNING"
    mlflow_sync.correct(made, tracking)
    assert tracking.get(run.run).status == "RUNNING", "both wait"
    said(made)
    for number in slurm.queued():
        slurm.end(number)
    mlflow_sync.correct(made, tracking)
    assert tracking.get(run.run).status == "KILLED"
    absent = tmp_path / "none.db"
    mlflow_sync.correct(made, Tracking(f"sqlite:///{absent}"))
    assert not absent.exists()


def test_json_and_lines_say_the_same(tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    with holder(made.directory(made.jobs[0])):
        results = Canceller(made).run()
    assert json.loads(json.dumps(cancel.as_json(results)))["jobs"] == [asdict(result) for result in results]
    assert list(cancel.lines(results)) == [
        f"{made.jobs[0].fingerprint}  stopped    {made.jobs[0].name}  nothing to save yet"
    ]
    assert os.getpid() not in [result.slurm for result in results]
