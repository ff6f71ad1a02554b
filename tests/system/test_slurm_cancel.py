"""What is cancelled on a real Slurm of one machine: plans and dry runs, waiting and running."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import one_model
import pytest
from slurm_cluster import Cluster, cluster
from slurm_runs import WAIT, environment, harness, here, job, log_of, submitted, wait_for, wait_for_checkpoint

from harness.common.atomic_files import read_json

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT)
def test_scancel_leaves_a_checkpoint_and_the_same_command_submits_again(slurm: Cluster, tmp_path: Path) -> None:
    words = ["run", one_model.FILE, *one_model.TINY, "train.epochs=4000", "--offline", "--launcher", "slurm"]
    harness(tmp_path, slurm, *words, "--nproc", "1", "--detach")
    first = submitted(tmp_path)
    wait_for_checkpoint(tmp_path, slurm)
    slurm.run("scancel", first["train"])
    slurm.wait(first["train"], "CANCELLED")
    assert slurm.wait(first["evaluate"], "FAILED", "COMPLETED") == "FAILED"  # it finds nothing to evaluate
    left = read_json(job(tmp_path, "evaluate") / "outcome.json")
    assert (left["status"], left["reason"]) == ("cancelled", "needs 'train upernet seed 0', which was not run")
    assert read_json(job(tmp_path, "train") / "outcome.json")["status"] == "preempted"
    harness(tmp_path, slurm, *words, "--nproc", "1", "--detach")
    again = submitted(tmp_path)
    assert again["train"] != first["train"]
    slurm.run("scancel", *again.values())


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT)
def test_a_cancelled_plan_leaves_a_checkpoint_and_nothing_in_the_queue(slurm: Cluster, tmp_path: Path) -> None:
    words = [one_model.FILE, *one_model.TINY, "train.epochs=4000"]
    stranger = slurm.run("sbatch", "--parsable", "--hold", "--wrap=true", "--output=/dev/null")
    harness(tmp_path, slurm, "run", *words, "--launcher", "slurm", "--nproc", "1", "--detach")
    numbers = submitted(tmp_path)
    wait_for_checkpoint(tmp_path, slurm)
    done = harness(tmp_path, slurm, "cancel", *words, "--json")
    assert done.returncode == 0, done.stderr + log_of(tmp_path, "train")
    results = {result["name"].split()[0]: result for result in json.loads(done.stdout)["jobs"]}
    assert {kind: (result["state"], result["slurm"]) for kind, result in results.items()} == {
        "train": ("stopped", numbers["train"]),
        "evaluate": ("cancelled", numbers["evaluate"]),
    }
    outcome = read_json(job(tmp_path, "train") / "outcome.json")
    assert outcome["status"] == "cancelled"
    assert results["train"]["reason"] == f"saved at step {outcome['step']}"
    assert slurm.wait(numbers["train"], "FAILED") == "FAILED", "ended, not requeued"
    assert slurm.wait(numbers["evaluate"], "CANCELLED") == "CANCELLED"
    assert read_json(job(tmp_path, "evaluate") / "outcome.json")["status"] == "cancelled"
    assert slurm.state(stranger).startswith("PENDING"), "another's is not touched"
    slurm.run("scancel", stranger)

    from mlflow import MlflowClient

    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert sorted(run.info.status for run in runs) == ["KILLED"] * 2  # plan, training


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT)
@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "running"])
def test_a_rehearsal_is_cancelled(slurm: Cluster, tmp_path: Path, waits: bool) -> None:
    words = [*one_model.TINY, "train.epochs=4000", "--offline", "--launcher", "slurm", "--nproc", "1", "--rehearse"]
    blocker = slurm.run("sbatch", "--parsable", "--cpus-per-task=2", "--wrap=sleep 600", "--output=/dev/null")
    command = [sys.executable, "-m", "harness.cli", "run", one_model.FILE, *words]
    env = environment(slurm.environment)
    rehearsal = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    try:
        number = wait_for(tmp_path, "runs/slurm/[0-9]*/")[0].name
        slurm.wait(number, "PENDING")
        if not waits:
            slurm.run("scancel", blocker)
            wait_for(tmp_path, "runs/rehearsal/jobs/*/events.jsonl")
        done = here(tmp_path, slurm, "cancel", "--rehearse", "--json")
        assert done.returncode == 0, done.stderr
        (ended,) = json.loads(done.stdout)["jobs"]
        assert ended["state"] == ("cancelled" if waits else "stopped"), ended
        _, said = rehearsal.communicate(timeout=WAIT)
        assert rehearsal.returncode == 75, said
        assert slurm.state(number).split()[0] not in ("PENDING", "RUNNING")
    finally:
        rehearsal.kill()
        slurm.run("scancel", blocker)
