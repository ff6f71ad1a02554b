"""A plan on Slurm without a Slurm: what is submitted, and never twice; what runs inside; what MLflow is told."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import finished_root
import one_model
import pytest
from mlflow_server import WITHOUT

from harness.common.atomic_files import read_json
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import SILENT
from harness.common.signals import Stopped
from harness.config.settings import RunOptions
from harness.jobdir import lease
from harness.launch import runner, slurm_jobs, slurm_submit
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import State
from harness.plan import saved_plans
from harness.plan.job import Job
from harness.plan.plan import Plan, launches

OPTIONS = RunOptions(launcher="slurm", nproc=1, slurm={"nodes": 1}, offline=True, command=("harness",))


def nothing(*arguments: Any) -> None:
    """Does nothing."""


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[slurm_jobs.SlurmTask]:
    """What was given to sbatch; the queue knows nothing of it."""
    found: list[slurm_jobs.SlurmTask] = []
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: {})
    facts = SimpleNamespace(parameters={"job_name": "harness"}, chosen_cluster=None)
    monkeypatch.setattr(_sbatch, "executor", lambda *arguments: facts)
    monkeypatch.setattr(_sbatch, "submit", lambda made, work: found.append(work) or str(len(found)))
    return found


def submitter(plan: Plan, missing: list[Job]) -> slurm_submit.Submitter:
    return slurm_submit.Submitter(plan, missing, partial(slurm_jobs.hand_in, plan, OPTIONS))


def test_results_of_a_rerun_are_not_moved_away_again(
    tmp_path: Path, submitted: list[slurm_jobs.SlurmTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_root.make(tmp_path, videos=2)

    def runs_them(plan: Plan, waiting: Mapping[str, list[Job]], *rest: Any) -> None:
        for job in [job for jobs in waiting.values() for job in jobs]:
            (plan.directory(job) / "slurm.json").unlink()
            plan.directory(job).rmdir()
            finish = finished_root.train if not job.inputs else finished_root.evaluate
            finish(plan, job)  # type: ignore[arg-type]

    monkeypatch.setattr(slurm_jobs, "accompany", runs_them)
    results = slurm_jobs.run(made, replace(OPTIONS, rerun="decoder_a"), SILENT)
    assert results is not None
    assert not results.failures
    assert results.executed == len(list((tmp_path / "replaced").iterdir())) == 3
    assert all(made.state(job) == "done" for job in made.jobs)


def test_nothing_is_submitted_while_the_queue_cannot_be_asked(
    tmp_path: Path, submitted: list[slurm_jobs.SlurmTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_root.make(tmp_path, videos=2, without=("decoder_b", "decoder_ab"))
    missing = [job for job in made.jobs if made.state(job) != "done"]
    submitter(made, missing).submit()
    before = len(submitted)
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: None)
    with pytest.raises(UnfitError, match="squeue does not answer"):
        submitter(made, missing).submit()
    assert len(submitted) == before > 0


def test_how_it_runs_goes_along(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, videos=2)
    options = replace(
        OPTIONS, stall=3.0, deterministic=True, prefix="site", tracking_uri="http://me:hush@h", rerun="all"
    )
    inside = slurm_jobs.task(made, made.jobs[:1], options).options
    assert inside == replace(options, slurm={}, tracking_uri=None, rerun=None, inside=True)


def test_what_waits_behind_a_job_that_died_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = finished_root.make(tmp_path, videos=2, without=("decoder_b", "decoder_ab"))
    saved_plans.keep(made, OPTIONS.command)
    launch = launches([job for job in made.jobs if made.state(job) != "done"])[-1]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: {})
    with pytest.raises(SystemExit) as left:
        slurm_jobs.task(made, launch, OPTIONS)()
    assert left.value.code == 1
    for job in launch:
        outcome = read_json(made.directory(job) / "outcome.json")
        assert outcome["status"] == "cancelled"
        assert outcome["reason"] == "needs 'train decoder_b seed 0', which was not run"


def test_the_scripts_are_shown_and_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sbatch, "submit", None)
    monkeypatch.setattr(_sbatch, "queue", None)
    made = finished_root.make(tmp_path, videos=2, without=("decoder_b", "decoder_ab"))
    before = sorted(tmp_path.rglob("*"))
    flags = ["gpus_per_node=2", "partition=gpu", "nodes=2"]
    options = slurm_jobs.with_sbatch(replace(OPTIONS, nproc=None), flags, made)
    assert (options.nodes, options.nproc) == (2, 2)
    first, second = slurm_jobs.dry(made, options).split("# <2>: ")
    assert first.startswith("# <1>: train decoder_b seed 0\n#!/bin/bash")
    for script in (first, second):
        assert "#SBATCH --partition=gpu\n" in script
        assert "#SBATCH --nodes=2\n" in script
    assert "--dependency" not in first
    assert "#SBATCH --dependency='afterany:<1>'\n" in second
    assert sorted(tmp_path.rglob("*")) == before


def test_nodes_and_ranks_that_do_not_divide_are_refused_with_the_sizes_that_do(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, videos=2)
    micro = made.config.micro_batch
    sizes = ", ".join(str(n) for n in range(1, micro + 1) if micro % n == 0)
    with pytest.raises(UsageError, match=rf"2 nodes × 3 ranks do not divide .* of {micro}; choose from {sizes}$"):
        slurm_jobs.with_sbatch(replace(OPTIONS, nproc=3), ["nodes=2"], made)
    with pytest.raises(UsageError, match="how many ranks per node"):
        slurm_jobs.with_sbatch(replace(OPTIONS, nproc=None), [], made)
    for nproc, flags, nodes in ((None, ["gpus_per_node=0"], None), (1, ["nodes=0"], None), (1, [], 0), (0, [], 1)):
        with pytest.raises(UsageError, match="give at least one of each"):
            slurm_jobs.with_sbatch(replace(OPTIONS, nproc=nproc, nodes=nodes), flags, made)


def test_two_who_submit_at_once_do_so_once(
    tmp_path: Path, submitted: list[slurm_jobs.SlurmTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_root.make(tmp_path, videos=2, without=("decoder_b", "decoder_ab"))
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: dict.fromkeys(numbers, State("PENDING")))
    lacking = [job for job in made.jobs if made.state(job) != "done"]
    monkeypatch.setattr(runner, "missing", lambda *arguments: lacking)
    monkeypatch.setattr(saved_plans, "keep", nothing)  # files are named by the process's number, and this is one
    real = slurm_submit.slurm_queue.ask

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return real(*arguments)

    monkeypatch.setattr(slurm_submit.slurm_queue, "ask", slow)
    both = [threading.Thread(target=slurm_jobs.run, args=(made, OPTIONS, SILENT, True)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert len(submitted) == len(launches(lacking))


def test_what_ends_a_run_before_its_first_job_is_their_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = one_model.made(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    work = slurm_jobs.task(made, made.jobs[:1], OPTIONS)
    (tmp_path / "plans" / f"{made.experiments[0].digest}.json").unlink()
    with pytest.raises(SystemExit) as left:
        work()
    assert left.value.code == 3
    outcome = read_json(made.directory(made.jobs[0]) / "outcome.json")
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 3)
    assert "run the plan again" in outcome["reason"]
    assert not made.directory(made.jobs[1]).exists()
    assert "Traceback" not in capsys.readouterr().err

    def breaks(*arguments: Any) -> Any:
        raise RuntimeError("a defect at http://u:hush@h")

    made.directory(made.jobs[0]).joinpath("outcome.json").unlink()
    monkeypatch.setattr(slurm_jobs.saved_plans, "restore", breaks)
    with pytest.raises(SystemExit):
        work()
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "hush" not in said + (made.directory(made.jobs[0]) / "outcome.json").read_text()


def test_a_run_that_is_left_goes_on_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", "run", one_model.FILE, *one_model.TINY, "--offline", "--detach"]
    env = {**WITHOUT, "HARNESS_THREADS": "1"}
    left = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "running in the background" in left.stderr
    assert left.stdout == ""
    (log,) = (tmp_path / "runs" / "logs").glob("detached-*.log")
    deadline = time.monotonic() + 300
    while "jobs executed" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    outcomes = [read_json(path)["status"] for path in tmp_path.glob("runs/jobs/*/outcome.json")]
    assert outcomes == ["finished"] * 2
    assert "2 jobs executed" in log.read_text()


# --- what a plan's run in MLflow ends with


@pytest.fixture
def half(tmp_path: Path) -> Plan:
    """Decoder B and A+B are missing: a training and two evaluations."""
    return finished_root.make(tmp_path, videos=2, without=("decoder_b", "decoder_ab"))


def status(plan: Plan, failures: Mapping[Job, str], only: list[Job] | None) -> str:
    fingerprints = None if only is None else tuple(job.fingerprint for job in only)
    options = replace(OPTIONS, inside=only is not None, only=fingerprints)
    return runner.ended(plan, plan.experiments[0], failures, options)


def test_a_plan_runs_on_while_others_of_its_slurm_jobs_wait(half: Plan) -> None:
    training, *evaluations = (job for job in half.jobs if half.state(job) != "done")
    finished_root.train(half, training)  # type: ignore[arg-type]
    assert status(half, {}, [training]) == "RUNNING"
    assert status(half, {}, evaluations) == "KILLED"
    for job in evaluations:
        finished_root.evaluate(half, job)
    assert status(half, {}, evaluations) == "FINISHED"


def test_a_plan_has_failed_where_all_that_waits_needs_what_failed(half: Plan) -> None:
    training, *_ = (job for job in half.jobs if half.state(job) != "done")
    assert status(half, {training: "a bad disk"}, [training]) == "FAILED"
    assert status(half, {training: "a bad disk"}, None) == "FAILED"


def test_outside_a_plan_is_killed_where_something_is_left(half: Plan) -> None:
    assert status(half, {}, None) == "KILLED"
    job = next(job for job in half.jobs if half.state(job) != "done")
    got = lease.Claim(half.directory(job)).take()
    assert got is not None
    assert status(half, {}, None) == "RUNNING"


def test_the_queue_of_a_preempted_job_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[dict[str, State] | None] = [None, None, {"7": State("RUNNING")}]
    monkeypatch.setattr(slurm_jobs, "LOOK", 0.0)
    monkeypatch.setattr(_sbatch, "queue", lambda ids: answers.pop(0))
    assert slurm_jobs.to_be_requeued(Stopped(signal.SIGTERM), "7")
    monkeypatch.setattr(_sbatch, "queue", lambda ids: None)
    assert not slurm_jobs.to_be_requeued(Stopped(signal.SIGTERM), "7")
