"""A plan on a real Slurm of one machine, from submission to the table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import one_model
import pytest
from shadows import shadow
from slurm_cluster import Cluster, cluster
from slurm_runs import (
    WAIT,
    assert_no_secret,
    environment,
    harness,
    here,
    job,
    leave,
    log_of,
    signal_ranks,
    submitted,
    wait_for_checkpoint,
)

from harness.common.atomic_files import read_json
from harness.jobdir.events import Begin, read_events

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_none_is_started_beside_another(slurm: Cluster) -> None:
    with pytest.raises(pytest.skip.Exception, match="slurmctld is running"), cluster():
        raise AssertionError("a second cluster")


@pytest.mark.timeout(3 * WAIT)
def test_a_plan_is_left_requeued_and_come_back_to(slurm: Cluster, tmp_path: Path, mlflow_tables: Path) -> None:
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    words = ["run", one_model.FILE, *one_model.TINY, "train.epochs=40", "--launcher", "slurm", "--nproc", "1"]
    shadow(tmp_path, "file")
    left = harness(tmp_path, slurm, *words, "--detach")
    assert left.returncode == 0, left.stderr
    numbers = submitted(tmp_path)
    assert f"Slurm job {numbers['evaluate']} after {numbers['train']}: evaluate" in left.stderr
    assert slurm.state(numbers["evaluate"]) == "PENDING Dependency"

    wait_for_checkpoint(tmp_path, slurm)
    signal_ranks(tmp_path, signal.SIGSTOP)  # the training does not end before it was looked at
    shown = json.loads(harness(tmp_path, slurm, "status", "--json").stdout)["jobs"]
    signal_ranks(tmp_path, signal.SIGCONT)
    states = {one["name"].split()[0]: one for one in shown}
    assert (states["train"]["state"], states["evaluate"]["state"]) == ("running", "queued")
    assert states["train"]["slurm"] == numbers["train"]
    assert states["train"]["queue"].startswith("RUNNING")
    assert states["train"]["steps"] == 80

    slurm.run("scancel", "--signal=USR2", numbers["train"])  # what comes before a time limit and a preemption
    slurm.wait_for_requeue(numbers["train"])
    assert slurm.state(numbers["evaluate"]) == "PENDING Dependency"  # a requeued job has not ended

    back = harness(tmp_path, slurm, *words, "--json")  # the same command comes back to the same Slurm jobs
    assert back.returncode == 0, back.stderr + log_of(tmp_path, "train")
    assert submitted(tmp_path) == numbers
    (row,) = json.loads(back.stdout)["experiments"][0]["rows"]
    assert row["status"] == "done"
    begins = [event for event in read_events(job(tmp_path, "train") / "events.jsonl")[0] if isinstance(event, Begin)]
    assert [event.step > 0 for event in begins] == [False, True], "it went on from its checkpoint"
    assert {slurm.wait(number, "COMPLETED") for number in numbers.values()} == {"COMPLETED"}

    from mlflow import MlflowClient

    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 3  # plan, training, cell
    (training,) = [run for run in runs if run.data.tags["harness.role"] == "train"]
    steps = [point.step for point in store.get_metric_history(training.info.run_id, "train/loss")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 80
    assert_no_secret(tmp_path)


@pytest.mark.timeout(2 * WAIT)
def test_what_needs_a_failed_job_is_cancelled_with_the_reason(slurm: Cluster, tmp_path: Path) -> None:
    words = ["run", one_model.FILE, *one_model.TINY, "train.lr=1e30", "--offline"]  # the loss is not finite
    done = here(tmp_path, slurm, *words, "--launcher", "slurm", "--nproc", "1")
    assert done.returncode == 1, done.stderr
    numbers = submitted(tmp_path)
    assert slurm.wait(numbers["train"], "FAILED") == "FAILED"
    assert slurm.wait(numbers["evaluate"], "CANCELLED") == "CANCELLED"
    reason = "needs 'train upernet seed 0', which failed"
    assert read_json(job(tmp_path, "evaluate") / "outcome.json")["reason"] == reason
    assert f"failed: evaluate upernet seed 0: {reason}" in done.stderr
    assert reason in here(tmp_path, slurm, "status").stdout


@pytest.mark.timeout(WAIT)
def test_a_rehearsal_is_one_job(slurm: Cluster, tmp_path: Path) -> None:
    words = ["run", one_model.FILE, *one_model.TINY, "--rehearse", "--launcher", "slurm", "--nproc", "2"]
    done = here(tmp_path, slurm, *words)
    assert done.returncode == 0, done.stderr
    training, evaluation, *cost = done.stdout.splitlines()
    assert training.startswith("train upernet seed 0: peak ")
    assert "ms per video" in evaluation
    assert "rehearsed" in "\n".join(cost)
    (number,) = [path.name for path in (tmp_path / "runs" / "slurm").iterdir() if path.is_dir()]
    assert slurm.wait(number, "COMPLETED") == "COMPLETED"
    jobs = {str(read_json(path)["kind"]): path.parent for path in tmp_path.glob("runs/rehearsal/jobs/*/job.yaml")}
    begins = [event for event in read_events(jobs["train"] / "events.jsonl")[0] if isinstance(event, Begin)]
    assert [(event.step, event.world) for event in begins] == [(0, 2), (1, 2)]
    assert not list((tmp_path / "runs" / "jobs").iterdir())

    failed = here(tmp_path, slurm, *words, "train.lr=1e30", "--offline")
    assert failed.returncode == 1
    assert "the loss is not finite" in failed.stderr.splitlines()[-1]
    assert_no_secret(tmp_path)


@pytest.mark.timeout(WAIT)
def test_a_job_that_dies_before_the_harness_shows_why(slurm: Cluster, tmp_path: Path) -> None:
    words = ["run", one_model.FILE, *one_model.TINY, "--offline", "--launcher", "slurm", "--nproc", "1", "--detach"]
    left = here(tmp_path, slurm, *words, "--slurm", f"python={os.devnull}/python")
    assert left.returncode == 0, left.stderr
    assert slurm.wait(submitted(tmp_path)["train"], "FAILED", "COMPLETED") == "FAILED"
    shown = here(tmp_path, slurm, "status").stdout
    (line,) = [line for line in shown.splitlines() if "train upernet" in line]
    assert "died" in line
    assert "/dev/null/python" in line, line


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
def test_a_preempted_job_gives_way_and_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    words = ["run", one_model.FILE, *one_model.TINY, "train.epochs=60", "--offline", "--launcher", "slurm"]
    left = harness(tmp_path, slurm, *words, "--nproc", "1", "--slurm", "cpus-per-task=2", "--detach")
    assert left.returncode == 0, left.stderr
    wait_for_checkpoint(tmp_path, slurm)
    urgent = slurm.run(
        "sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=2", "--wrap=sleep 5", "--output=/dev/null"
    )
    slurm.wait(urgent, "COMPLETED")
    slurm.wait(submitted(tmp_path)["evaluate"], "COMPLETED")
    begins = [event for event in read_events(job(tmp_path, "train") / "events.jsonl")[0] if isinstance(event, Begin)]
    assert len(begins) == 2
    assert begins[1].step > 0


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT)
def test_who_only_watches_may_leave(slurm: Cluster, tmp_path: Path) -> None:
    words = ["run", one_model.FILE, *one_model.TINY, "train.epochs=4000", "--offline", "--launcher", "slurm"]
    command = [sys.executable, "-m", "harness.cli", *words, "--nproc", "1"]
    env = environment(slurm.environment)
    watching = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + WAIT
    while len(list((tmp_path / "runs" / "jobs").glob("*/slurm.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    wait_for_checkpoint(tmp_path, slurm)
    leave(watching)
    numbers = submitted(tmp_path)
    assert slurm.state(numbers["train"]).startswith("RUNNING")
    slurm.run("scancel", *numbers.values())
