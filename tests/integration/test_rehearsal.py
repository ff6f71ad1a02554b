"""A rehearsal: every job in short, with a resume; nothing of it counts, and its runs end however it does."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import in_process
import one_model
import pytest
from mlflow_server import WITHOUT

from harness import cli
from harness.common.atomic_files import read_json, write_json
from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.common.locks import us
from harness.common.progress import SILENT
from harness.common.signals import Stopped
from harness.config.settings import RunOptions
from harness.jobdir.events import Begin, read_events
from harness.jobdir.lease import Claim
from harness.jobdir.paths import OutputDir
from harness.launch import preflight, rehearsal, slurm_jobs
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import State
from harness.launch.mlflow_sync import Sync, rehearsals
from harness.plan.job import Evaluate
from harness.plan.plan import Plan
from harness.tracking import report_from_mlflow
from harness.tracking.client import ROLE, Tracking
from harness.tracking.publisher import publisher_of


@pytest.fixture(autouse=True)
def _networks_are_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ask_child", in_process.answered)


def statuses(store: Tracking) -> dict[str, str]:
    client = store.connect()
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return {run.data.tags[ROLE]: run.info.status for run in runs}


@pytest.mark.timeout(900)
def test_a_plan_in_three_steps_and_two_videos(tmp_path: Path, mlflow_tables: Path) -> None:
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    words = [one_model.FILE, *one_model.TINY, "data.synthetic.val_videos=3"]
    command = [sys.executable, "-m", "harness.cli", "run", *words, "--rehearse"]
    env = {**WITHOUT, "HARNESS_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    training, evaluation, *cost = done.stdout.splitlines()
    assert training.startswith("train upernet seed 0: peak ")
    assert training.endswith(" ms per step")
    assert re.fullmatch(r"evaluate upernet seed 0: peak \d+\.\d\d GiB per rank, \d+ ms per video", evaluation)
    assert "rehearsed" in "\n".join(cost)

    jobs = {str(read_json(path)["kind"]): path.parent for path in tmp_path.glob("runs/rehearsal/jobs/*/job.yaml")}
    assert read_json(jobs["train"] / "outcome.json")["peak"] > 0
    begins = [event for event in read_events(jobs["train"] / "events.jsonl")[0] if isinstance(event, Begin)]
    assert [event.step for event in begins] == [0, 1], "it went on from its checkpoint"
    assert len(list((jobs["evaluate"] / "videos").iterdir())) == 2

    made = one_model.made(tmp_path / "runs", "data.synthetic.val_videos=3")
    assert [made.state(job) for job in made.jobs] == ["missing", "missing"]
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert statuses(store) == {"plan": "FINISHED", "train": "FINISHED"}
    (found,) = report_from_mlflow.look_up(made, ("harness",), store.uri)
    assert [row.status for row in found.rows] == ["missing"]


class Signalled:
    """A launcher at whose start a signal comes."""

    log = Path("none.log")

    def start(self, directories: list[Path]) -> None:
        raise Stopped(15)

    def running(self) -> bool:
        return False

    def signal(self, number: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_signal_kills_its_runs_and_sync_ends_what_kill_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = one_model.made(tmp_path)
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "rehearsal")
    fetched: list[object] = []
    monkeypatch.setattr(rehearsal, "choose", lambda plan, options: (Signalled(), {"launcher": "inline", "nproc": 1}))
    monkeypatch.setattr(rehearsal, "fetch", lambda config: fetched.append(config))
    with pytest.raises(Stopped):
        rehearsal.rehearse(made, RunOptions(tracking_uri=store.uri), SILENT)
    assert fetched == [made.config]
    assert statuses(store) == {"plan": "KILLED", "train": "KILLED"}
    for run in store.connect().search_runs([store.experiment("one_model")]):
        store.resume(run.info.run_id)  # as kill -9 leaves them
    assert statuses(store) == {"plan": "RUNNING", "train": "RUNNING"}
    Sync(tmp_path, Tracking(store.uri)).once()
    assert statuses(store) == {"plan": "KILLED", "train": "KILLED"}
    assert len([record for record in caplog.records if record.name.startswith("harness")]) == 2


def test_the_next_one_ends_what_kill_left_before_a_training(tmp_path: Path) -> None:
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    options = RunOptions(tracking_uri=store.uri)
    short, _ = rehearsal.prepared(one_model.made(tmp_path), options)
    publisher_of(short, rehearsals(store)).open(short.jobs)
    assert statuses(store) == {"plan": "RUNNING"}
    rehearsal.prepared(one_model.made(tmp_path, "seed=1"), options)
    assert statuses(store) == {"plan": "KILLED"}


def test_what_an_evaluation_will_cost(tmp_path: Path) -> None:
    """Models load in 5 s; each of two ranks takes 3 s for its video; 7 videos then take 5 + 7 * 3 / 2 s."""
    made = one_model.made(tmp_path, "data.synthetic.val_videos=7")
    short = rehearsal.Rehearsal(made.experiments, tmp_path / "rehearsal")
    (job,) = (job for job in made.jobs if isinstance(job, Evaluate))
    folder = one_model.begun(short, job)
    begin = {"event": "begin", "time": 100.0, "step": 0, "steps": 2}
    one_model.say(folder, begin, {"event": "loaded", "time": 105.0}, {"event": "peak", "time": 108.0, "bytes": 2**30})
    write_json(folder / "outcome.json", {"status": "finished", "peak": 2**30, "provenance": {"world": 2}})
    ((line, cost),) = rehearsal.measured(made, short, [job])
    assert line.endswith("peak 1.00 GiB per rank, 3000 ms per video")
    assert (cost.seconds, cost.device_seconds) == (15.5, 31.0)


def test_none_is_begun_beside_another(tmp_path: Path) -> None:
    made = one_model.made(tmp_path)
    assert Claim(tmp_path / "rehearsal" / "jobs" / ("f" * 16)).take() is not None
    with pytest.raises(UsageError, match="a dry run is in progress"):
        rehearsal.rehearse(made, RunOptions(offline=True), SILENT)
    words = rf"a dry run is in progress in .*/rehearsal \({re.escape(us())}\); wait"
    with rehearsal.alone(tmp_path / "other"), pytest.raises(UsageError, match=words):
        rehearsal.rehearse(replace(made, root=tmp_path / "other"), SLURM, SILENT)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--rerun", "changed"], "--rehearse cannot be combined with --rerun"),
        (["--detach"], "--rehearse cannot be combined with --detach"),
        (["--json"], "--rehearse cannot be combined with --json"),
        (["--nodes", "2"], "--nodes can only be used with --launcher slurm"),
        (
            ["--launcher", "slurm", "--nproc", "1", "--dry-run", "--detach"],
            "--dry-run cannot be combined with --detach",
        ),
        (["--launcher", "slurm"], "how many ranks per node?"),
    ],
)
def test_flags_that_do_not_go_with_it(
    words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", one_model.FILE, *one_model.TINY, "--rehearse", *words]) == 2
    assert wrong in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


# --- by Slurm; on a real one in test_slurm.py


SLURM = RunOptions(offline=True, launcher="slurm", nproc=1, slurm={"partition": "gpu", "nodes": 1})


def by_slurm(plan: Plan, options: RunOptions = SLURM, detach: bool = False) -> list[str] | None:
    return rehearsal.by_slurm(plan, options, SILENT, detach)


def left(root: Path, found: dict[str, object]) -> None:
    """What Slurm job 7 leaves beside its log."""
    path = OutputDir(root).rehearsal_result("7")
    path.parent.mkdir(parents=True)
    write_json(path, found)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[rehearsal.SlurmTask]:
    """What was given to sbatch, numbered from 7; the queue has all of them for ever."""
    works: list[rehearsal.SlurmTask] = []
    monkeypatch.setattr(_sbatch, "submit", lambda made, work: works.append(work) or str(6 + len(works)))
    monkeypatch.setattr(_sbatch, "queue", lambda ids: dict.fromkeys(ids, State("RUNNING")))
    return works


def test_a_dry_run_prints_its_script(tmp_path: Path) -> None:
    script = rehearsal.dry(one_model.made(tmp_path), SLURM)
    assert "#SBATCH --partition=gpu" in script
    assert "--job-name='harness dry run of one_model'" in script
    assert not (tmp_path / "rehearsal").exists()


def test_it_is_left_and_come_back_to(submitted: list[rehearsal.SlurmTask], tmp_path: Path) -> None:
    made = one_model.made(tmp_path)
    assert by_slurm(made, detach=True) is None
    left(tmp_path, {"lines": ["a line"]})
    assert by_slurm(made) == ["a line"]
    assert len(submitted) == 1
    assert by_slurm(made, detach=True) is None, "what was seen is over: the same command rehearses again"
    assert len(submitted) == 2


def test_no_other_is_begun_while_it_waits(
    submitted: list[rehearsal.SlurmTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = one_model.made(tmp_path)
    secret = replace(SLURM, slurm={**SLURM.slurm, "setup": ["export MLFLOW_TRACKING_PASSWORD=hush"]})
    by_slurm(made, secret, detach=True)
    assert "hush" not in (tmp_path / "slurm" / "rehearsal.json").read_text()
    for options in (secret, SLURM):
        with pytest.raises(UsageError, match="Slurm job 7 is waiting to do a dry run"):
            by_slurm(one_model.made(tmp_path, "seed=1"), options)
    here = RunOptions(offline=True)
    with pytest.raises(UsageError, match="Slurm job 7 is waiting to do a dry run"):
        rehearsal.rehearse(made, here, SILENT)
    monkeypatch.setattr(_sbatch, "queue", lambda ids: None)
    with pytest.raises(
        UsageError, match=r"Slurm job 7 is waiting to do a dry run.*squeue does not answer.*rehearsal.json"
    ):
        rehearsal.rehearse(made, here, SILENT)
    assert by_slurm(made, secret, detach=True) is None, "the job may wait yet: it is come back to"
    assert len(submitted) == 1


@pytest.mark.parametrize(("code", "kind"), [(1, HarnessError), (2, UsageError), (3, UnfitError)], ids=str)
def test_why_it_failed_there_is_said_here(
    code: int, kind: type[HarnessError], submitted: list[rehearsal.SlurmTask], tmp_path: Path
) -> None:
    left(tmp_path, {"reason": "out of memory", "exit_code": code})
    with pytest.raises(HarnessError, match="out of memory") as error:
        by_slurm(one_model.made(tmp_path))
    assert type(error.value) is kind


def test_a_job_that_leaves_no_word(
    submitted: list[rehearsal.SlurmTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sbatch, "queue", lambda ids: {})
    monkeypatch.setattr(slurm_jobs, "GONE", 0.0)
    with pytest.raises(HarnessError, match=r"Slurm job 7 ended without a result, see .*7_0_log.out"):
        by_slurm(one_model.made(tmp_path))


def test_what_fails_in_the_allocation_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = one_model.made(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(rehearsal, "choose", lambda plan, options: (Signalled(), {"launcher": "inline", "nproc": 1}))
    monkeypatch.setattr(rehearsal, "fetch", lambda config: None)
    rehearsal.prepared(made, SLURM)
    OutputDir(tmp_path).rehearsal_result("7").parent.mkdir(parents=True)
    with pytest.raises(SystemExit) as ended:
        rehearsal.task(made, SLURM)()
    assert ended.value.code == 75
    assert not OutputDir(tmp_path).rehearsal_result("7").exists(), "Slurm may run it again"
    (tmp_path / "rehearsal" / "plans" / f"{made.experiments[0].digest}.json").unlink()
    with pytest.raises(SystemExit) as ended:
        rehearsal.task(made, SLURM)()
    assert ended.value.code == UnfitError.exit_code
    assert "run the plan again" in capsys.readouterr().out
