"""Slurm: what sbatch is told, and a plan on a real cluster of one machine, from submission to the table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import in_process
import one_model
import pytest
from shadows import shadow
from slurm_cluster import Cluster, cluster

from harness.common.atomic_files import read_json
from harness.common.errors import UsageError
from harness.jobdir.events import Begin, Checkpoint, read_events
from harness.launch.launchers import _sbatch

pytestmark = pytest.mark.long

WAIT = 1200  # seconds; a loaded machine starts torch in minutes
SECRET = "planted-hush-7"  # MLflow's password, in the environment of all that is run here


# --- what sbatch is told


def test_options_of_flags_win_and_setup_lines_add_up() -> None:
    base = {"partition": "cpu", "setup": "umask 2", "mail-type": "END"}
    found = _sbatch.parse(
        ["partition=gpu", "exclusive", "requeue=false", "setup=module load cuda", "container-image=a:b=c"], base
    )
    assert found == {
        "requeue": False,
        "partition": "gpu",
        "mail_type": "END",
        "exclusive": True,
        "container_image": "a:b=c",
        "setup": ["umask 2", "module load cuda"],
    }


@pytest.mark.parametrize(
    "flag", ["output=x", "dependency=afterok:1", "ntasks=8", "=x", "nodes=many", "max_num_timeout=x"]
)
def test_what_the_harness_sets_itself_is_refused(flag: str) -> None:
    with pytest.raises(UsageError):
        _sbatch.parse([flag], {})


@pytest.mark.parametrize(
    ("options", "ranks"),
    [
        ({"gpus_per_node": 8}, 8),
        ({"gpus_per_node": "a100:4"}, 4),
        ({"gres": "gpu:v100:2"}, 2),
        ({"gres": "gpu:8(S:0-1)"}, 8),
        ({"gres": "lscratch:500"}, None),
        ({"gres": "gpu:4,lscratch:500"}, 4),
        ({"gpus_per_node": 0}, 0),
        ({"gres": "gpu:h100"}, 1),
        ({"gres": "gpu:a100:2,gpu:v100:2"}, 4),
        ({"gres": "gpu:h100:8"}, 8),
        ({"gpus": 8}, 8),
        ({"gpus": "h100:16", "nodes": "2"}, 8),
        ({"tres_per_node": "gres/gpu:8"}, 8),
        ({"tres_per_node": "gres/gpu:h100=8,license/x:1"}, 8),
        ({"tres_per_task": "cpu=4,gres/gpu:2"}, 2),
        ({"partition": "x"}, None),
    ],
)
def test_ranks_follow_the_gpus_that_are_asked_for(options: dict[str, object], ranks: int | None) -> None:
    assert _sbatch.ranks(options) == ranks


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [(90, 90), ("90:30", 91), ("12:00:00", 720), ("1-00", 1440), ("2-12:30", 3630), ("infinite", None)],
)
def test_time_limits_as_sbatch_reads_them(limit: object, minutes: int | None) -> None:
    assert _sbatch.minutes(limit) == minutes


def test_gpus_that_nodes_cannot_share_are_refused() -> None:
    with pytest.raises(UsageError, match="gpus=3: 2 nodes cannot share them evenly"):
        _sbatch.ranks({"gpus": "3", "nodes": 2})


def test_lists_are_lists(tmp_path: Path) -> None:
    flags = ["srun_args=--mpi=none --container-image='a b'", "srun_args=--quiet", "teardown=rm -r /scratch/mine"]
    found = _sbatch.parse(flags, {"srun_args": "--verbose", "teardown": ["sync"]})
    assert found["srun_args"] == ["--verbose", "--mpi=none", "--container-image=a b", "--quiet"]
    assert found["teardown"] == ["sync", "rm -r /scratch/mine"]
    lines = script(tmp_path, *flags)
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert "--mpi=none '--container-image=a b' --quiet" in srun
    assert lines[-1] == "rm -r /scratch/mine"
    assert """export HARNESS_SRUN_ARGS='--mpi=none '"'"'--container-image=a b'"'"' --quiet'""" in lines
    with pytest.raises(UsageError, match=r"srun_args=.*No closing quotation"):
        _sbatch.parse(["srun_args=--x='a"], {})


def script(tmp_path: Path, *flags: str, after: tuple[str, ...] = ()) -> list[str]:
    made = _sbatch.executor(tmp_path / "%j", _sbatch.parse(flags, {}), "a name", after)
    return _sbatch.script(made).splitlines()


def test_no_option_is_invented(tmp_path: Path) -> None:
    options = {line.split("=")[0].removeprefix("#SBATCH --") for line in script(tmp_path) if line.startswith("#SBATCH")}
    ours = {"job-name", "nodes", "ntasks-per-node", "open-mode", "output", "signal", "requeue"}
    assert options == ours


def test_every_option_goes_through(tmp_path: Path) -> None:
    flags = ["partition=gpu", "account=lab", "qos=high", "time=1-12:00:00", "constraint=a100|h100", "gres=gpu:8"]
    flags += ["container-image=/x.sqsh", "setup=module load cuda", "setup=export A=1", "cpus-per-task=4", "mem=0"]
    lines = script(tmp_path, *flags, after=("7", "8"))
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=high",
        "#SBATCH --time=1-12:00:00",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --gres=gpu:8",
        "#SBATCH --container-image=/x.sqsh",
        "#SBATCH --mem=0",
        "#SBATCH --dependency=afterany:7:8",
        "module load cuda",
        "export A=1",
    ):
        assert lines.count(line) == 1, line
    assert f"{sys.executable} -I -S -c" in lines[-1]
    assert " -P -u -m submitit" in lines[-1]  # a models.py where sbatch was called hides none of ours
    assert "--cpus-per-task=4 " in lines[-1]  # srun has not inherited it since 22.05


# --- on a cluster


def environment(extra: dict[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "SLURM_"))}
    return {**kept, "MLFLOW_TRACKING_PASSWORD": SECRET, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1", **extra}


def harness(folder: Path, slurm: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "harness.cli", *words]
    env = environment(slurm.environment)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=WAIT, check=False)


def here(folder: Path, slurm: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which submits and watches; what Slurm starts are processes as ever."""
    return in_process.harness(folder, *words, **environment(slurm.environment))


def assert_no_secret(folder: Path) -> None:
    """In no file: scripts, what submitit pickles, logs, jobs, reports, the store."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".pkl" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def submitted(folder: Path) -> dict[str, str]:
    """Kind of job -> number of its Slurm job."""
    found = [read_json(path) for path in (folder / "runs" / "jobs").glob("*/slurm.json")]
    return {facts["name"].split()[0]: facts["id"] for facts in found}


def signal_ranks(folder: Path, number: signal.Signals) -> None:
    """Send a signal to all that Slurm runs of a root's jobs."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            if "harness.engine.worker" in words and str(folder) in words:
                os.kill(int(process.name), number)


def job(folder: Path, kind: str) -> Path:
    return next(
        path.parent
        for path in (folder / "runs" / "jobs").glob("*/slurm.json")
        if read_json(path)["name"].startswith(kind)
    )


def wait_for_checkpoint(folder: Path, slurm: Cluster, after: int = 0) -> None:
    deadline = time.monotonic() + WAIT
    while True:
        events = read_events(job(folder, "train") / "events.jsonl")[0]
        if any(isinstance(event, Checkpoint) and event.step > after for event in events):
            return
        assert time.monotonic() < deadline, log_of(folder, "train") + slurm.said()
        time.sleep(0.1)


def log_of(folder: Path, kind: str) -> str:
    path = Path(read_json(job(folder, kind) / "slurm.json")["log"])
    return path.read_text() if path.exists() else "no log"


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


def wait_for(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below a folder, once there is something."""
    deadline = time.monotonic() + 120
    while not (matches := list(folder.glob(pattern))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return matches


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
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 75
    assert "the Slurm jobs continue" in said
    numbers = submitted(tmp_path)
    assert slurm.state(numbers["train"]).startswith("RUNNING")
    slurm.run("scancel", *numbers.values())
