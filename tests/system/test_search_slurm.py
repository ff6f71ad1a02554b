"""A search by Slurm: what a job is told and what it is not, and a study on a real cluster of one machine."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import searches
from command_line import all_runs
from searches import trials_end
from simulated_slurm import SimulatedSlurm
from slurm_cluster import Cluster, cluster
from slurm_runs import WAIT, environment, harness, leave
from tiny_study import TINY

from harness.cli import search as command
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import Progress
from harness.jobdir.paths import SlurmJob
from harness.launch import slurm_queue
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import State
from harness.plan import cost
from harness.search import command as search
from harness.search import slurm_workers
from harness.search.request import Request

SECRET = "postgresql://me:hush@127.0.0.1:1/none"


def request(folder: Path, *flags: str, **more: Any) -> Request:
    asked = searches.request(folder, **{"launcher": "slurm", "nproc": 1, **more})
    return slurm_workers.with_sbatch(asked, flags)


def test_a_dry_run_prints_the_script_with_the_options_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "count", lambda plan: {})
    lines = search.dry(request(tmp_path, "partition=gpu", "time=2-00"), 3)
    assert "# each of 3 Slurm job(s)" in lines
    assert "#SBATCH --partition=gpu" in lines
    assert "#SBATCH --time=2-00" in lines
    assert "--job-name='harness search momentum'" in "".join(lines)


def test_a_confirmation_is_refused_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--confirm trains on the machine where it is called"):
        command.search("momentum", launcher="slurm", nproc=1, confirm=3)
    with pytest.raises(UsageError, match="--nodes and --slurm can only be used with --launcher slurm"):
        command.search("momentum", slurm=["partition=gpu"])
    assert list(tmp_path.iterdir()) == []


def test_ranks_are_what_the_options_come_to(tmp_path: Path) -> None:
    asked = request(tmp_path, "gpus_per_node=2", "nodes=2", nproc=None)
    assert (asked.options.nodes, asked.options.nproc, asked.options.slurm["nodes"]) == (2, 2, 2)
    with pytest.raises(UsageError, match="how many ranks per node"):
        request(tmp_path, nproc=None)


def test_no_secret_is_pickled_or_on_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(tmp_path, storage=SECRET, tracking_uri="http://me:hush@nowhere")
    handed: list[tuple[slurm_workers.SlurmTask, str]] = []
    monkeypatch.setattr(
        _sbatch, "submit", lambda made, work: handed.append((work, os.environ[slurm_workers.URL])) or str(len(handed))
    )
    storage = search.Storage(SECRET, asked.folder("momentum"))
    storage.folder.mkdir(parents=True)
    assert [job.id for job in slurm_workers.submit(asked, 2, "momentum", storage)] == ["1", "2"]
    assert [url for _, url in handed] == [SECRET] * 2
    assert slurm_workers.URL not in os.environ
    assert b"hush" not in pickle.dumps(handed[0][0])
    assert "hush" not in "".join(slurm_workers.dry(asked, "momentum"))
    assert len(handed) == 2


def test_a_job_that_did_not_get_the_storage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv(slurm_workers.URL, raising=False)
    with pytest.raises(SystemExit) as left:
        slurm_workers.task(request(tmp_path))()
    assert left.value.code == UnfitError.exit_code
    assert "--slurm export must include ALL" in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_workers, "LOOK", 0.01)
    monkeypatch.setattr(slurm_workers.slurm_jobs, "GONE", 0.05)
    monkeypatch.setattr(_sbatch, "submit", lambda made, work: "7")
    monkeypatch.setattr(_sbatch, "configuration", lambda cluster=None: {"ClusterName": "here"})


@pytest.mark.usefixtures("quick")
def test_jobs_that_end_before_the_study_has_its_trials_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sbatch, "queue", lambda ids: {})
    with pytest.raises(UnfitError, match=r"Slurm jobs 7 have ended with 0 of 3 trials \(see .*7_0_log.out\)"):
        search.run(request(tmp_path), 1, Progress())
    assert (tmp_path / "runs" / "reports" / "search_momentum" / "report.md").is_file()


@pytest.mark.usefixtures("quick")
def test_what_still_waits_when_the_study_is_through_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = request(tmp_path)
    cancelled: list[tuple[object, ...]] = []

    def queue(ids: list[str]) -> dict[str, State]:
        if ids:
            trials_end(asked, 0, Progress())
        return dict.fromkeys(ids, State("PENDING", "Resources"))

    monkeypatch.setattr(_sbatch, "queue", queue)
    monkeypatch.setattr(_sbatch, "cancel", lambda *words: cancelled.append(words))
    done = search.run(asked, 1, Progress())
    assert [trial.state for trial in done.trials] == ["failed"] * 3
    assert cancelled == [(["7"], None, "harness search momentum", None)]
    assert "Slurm job 7: PENDING (Resources)" in caplog.messages
    assert "trial 2 m=0.9 poly: failed: nothing is trained here (3 of 3)" in caplog.messages


# --- whose number it is


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedSlurm:
    made = SimulatedSlurm.make(tmp_path / "slurm", _sbatch.user())
    monkeypatch.setenv("PATH", made.path)
    return made


def submitted(folder: Path, workers: int) -> list[str]:
    """Numbers of the study's workers once so many are asked for."""
    asked = request(folder)
    storage = search.Storage(f"sqlite:///{folder}/study.db", asked.folder("momentum"))
    storage.folder.mkdir(parents=True, exist_ok=True)
    return [job.id for job in slurm_workers.submit(asked, workers, "momentum", storage)]


def test_workers_that_are_at_it_are_not_doubled(simulated: SimulatedSlurm, tmp_path: Path) -> None:
    assert submitted(tmp_path, 2) == ["1", "2"]
    assert submitted(tmp_path, 3) == ["1", "2", "3"]
    simulated.end("1")
    assert submitted(tmp_path, 3) == ["2", "3", "4"]
    content = json.loads((request(tmp_path).folder("momentum") / "slurm.json").read_text())
    assert content["ids"] == ["2", "3", "4"]
    assert content["jobs"][0] == {
        "id": "2",
        "cluster": "simulated",
        "user": _sbatch.user(),
        "job_name": "harness search momentum",
    }


@pytest.mark.parametrize(("user", "name"), [("anna", "harness search momentum"), (_sbatch.user(), "a simulation")])
def test_a_workers_number_that_is_anothers_by_now_is_not_believed(
    user: str, name: str, simulated: SimulatedSlurm, tmp_path: Path
) -> None:
    assert submitted(tmp_path, 1) == ["1"]
    simulated.put("1", user, name)
    assert submitted(tmp_path, 1) == ["2"]


def test_where_squeue_does_not_answer_no_worker_is_submitted(simulated: SimulatedSlurm, tmp_path: Path) -> None:
    assert submitted(tmp_path, 1) == ["1"]
    squeue = simulated.folder / "bin" / "squeue"
    squeue.write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(UnfitError, match=r"squeue does not answer about Slurm job 1 of .*: no worker was submitted"):
        submitted(tmp_path, 1)
    assert simulated.queued() == ["1"]


def test_numbers_of_an_older_harness_are_believed_and_never_cancelled(
    simulated: SimulatedSlurm, tmp_path: Path
) -> None:
    assert submitted(tmp_path, 1) == ["1"]
    file = request(tmp_path).folder("momentum") / "slurm.json"
    file.write_text(json.dumps({"ids": ["1"]}))
    assert submitted(tmp_path, 1) == ["1"]
    assert not slurm_queue.cancel(SlurmJob("1"))
    assert simulated.cancelled() == ""


# --- on a cluster


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def leave_begun(slurm: Cluster, search: "subprocess.Popen[str]", begun: Callable[[], bool]) -> None:
    """Leave a search once its jobs have begun, which go on."""
    deadline = time.monotonic() + WAIT
    while not begun():
        assert search.poll() is None, search.communicate()[1]
        assert time.monotonic() < deadline, slurm.said()
        time.sleep(0.2)
    leave(search)


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
def test_a_study_that_was_left_is_cancelled_with_checkpoints(slurm: Cluster, tmp_path: Path) -> None:
    """One worker trains, the other waits in the queue; the command that submitted them is gone."""
    words = ["search", "momentum", *TINY, "train.epochs=200", "--trials", "3", "--workers", "2"]
    words += ["--launcher", "slurm", "--nproc", "1", "--slurm", "cpus_per_task=2"]
    command = [sys.executable, "-m", "harness.cli", *words]
    env = environment(slurm.environment)
    search = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    leave_begun(slurm, search, lambda: bool(list(tmp_path.rglob("step-*.pt"))))
    noted = tmp_path / "runs" / "searches" / "momentum" / "slurm.json"
    numbers = json.loads(noted.read_text())["ids"]
    assert sorted(slurm.state(number).split()[0] for number in numbers) == ["PENDING", "RUNNING"]

    done = harness(tmp_path, slurm, "cancel", "--study", "momentum", "--json")
    assert done.returncode == 0, done.stderr
    ended = {one["name"]: (one["state"], one["reason"]) for one in json.loads(done.stdout)["jobs"]}
    assert ended["a worker of momentum"] == ("cancelled", "removed from Slurm's queue")
    (trial,) = ended.keys() - {"a worker of momentum"}
    assert trial.startswith("trial 0 of momentum")
    assert ended[trial][0] == "stopped"
    assert ended[trial][1].startswith("saved at step ")
    assert not any(slurm.state(number).split()[0] in ("PENDING", "RUNNING") for number in numbers)
    assert list(tmp_path.rglob("step-*.pt"))
    assert [run.info.status for run in all_runs(tmp_path)] == ["KILLED"] * 2  # of the study and of the trial


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT)
def test_a_study_is_left_and_come_back_to(slurm: Cluster, tmp_path: Path) -> None:
    words = ["search", "momentum", *TINY, "train.epochs=10", "--trials", "5", "--workers", "2"]
    words += ["--launcher", "slurm", "--nproc", "1", "--slurm", "cpus_per_task=1"]
    command = [sys.executable, "-m", "harness.cli", *words]
    env = environment(slurm.environment)
    left = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    noted = tmp_path / "runs" / "searches" / "momentum" / "slurm.json"
    leave_begun(slurm, left, lambda: noted.exists() and bool(list(tmp_path.rglob("events.jsonl"))))
    numbers = json.loads(noted.read_text())["ids"]
    assert len(numbers) == 2

    back = harness(tmp_path, slurm, *words, "--json")
    assert back.returncode == 0, back.stderr
    assert json.loads(noted.read_text())["ids"] == numbers
    trials = json.loads(back.stdout)["trials"]
    assert [trial["number"] for trial in trials] == list(range(5))
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert {slurm.wait(number, "COMPLETED", "CANCELLED") for number in numbers} == {"COMPLETED"}
    runs = all_runs(tmp_path)
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    logs = [(tmp_path / "runs" / "slurm" / number / f"{number}_0_log.out").read_text() for number in numbers]
    assert all("trial " in log for log in logs)
