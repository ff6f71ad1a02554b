"""Two people, one root: real `harness run` processes of overlapping plans, and what is left of a killed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness.common.atomic_files import read_json
from harness.jobdir.replay import Replay

EXPERIMENT = '''"""One cell."""
from harness.plan.cell import Cell, Evaluate, Train

TITLE, REPORT = "One cell", "comparison"


def cells(config):
    return [Cell(name, name, Evaluate((Train(config, name),))) for name in {names!r}]
'''
TINY = (
    *("data.synthetic.train_videos=2", "data.synthetic.val_videos=2", "data.synthetic.frames=2"),
    *("train.batch=2", "train.epochs=100", "train.checkpoint_every=10", "--offline"),
)


def start(folder: Path, name: str, *cells: str, more: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    file = folder / f"{name}.py"
    file.write_text(EXPERIMENT.format(names=cells))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "harness.cli", "run", str(file), *TINY, *more]
    return subprocess.Popen(command, cwd=folder, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def training(folder: Path, decoder: str) -> Path:
    """The directory of a training, once it is at work."""
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        for path in folder.glob("runs/jobs/*"):
            job = read_json(path / "job.yaml")
            if job.get("kind") == "train" and job["decoder"]["name"] == decoder and (path / "events.jsonl").exists():
                return path
        time.sleep(0.1)
    raise AssertionError(f"no training of {decoder} began")


def signal_ranks(run: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal to what a run has started."""
    for path in Path("/proc", str(run.pid), "task").glob("*/children"):
        for child in path.read_text().split():
            os.kill(int(child), number)


def begins(job: Path) -> int:
    return Replay.of(job / "events.jsonl").attempts


def test_overlapping_plans_run_each_job_once(tmp_path: Path) -> None:
    short = ("train.epochs=40",)
    mine = start(tmp_path, "mine", "upernet", more=short)
    job = training(tmp_path, "upernet")
    signal_ranks(mine, signal.SIGSTOP)  # the training does not end before the other run has found it at work
    theirs = start(tmp_path, "theirs", "upernet", "decoder_b", more=short)
    assert theirs.stderr is not None
    assert any(f"(process {mine.pid}) is running it" in line for line in iter(theirs.stderr.readline, ""))
    signal_ranks(mine, signal.SIGCONT)
    told = {run.pid: run.communicate(timeout=900)[1] for run in (mine, theirs)}
    assert (mine.returncode, theirs.returncode) == (0, 0), told
    assert "2 jobs executed, 0 already done, 2 done by another run" in told[theirs.pid]
    assert "2 jobs executed, 0 already done" in told[mine.pid]
    jobs = list(tmp_path.glob("runs/jobs/*"))
    assert len(jobs) == 4
    assert [begins(one) for one in jobs] == [1] * 4
    assert {path.name for one in jobs for path in (one / "attempts").iterdir()} == {"000001.json"}
    assert json.loads((job / "attempts" / "000001.json").read_text())["released"]


def test_a_run_is_cancelled_with_its_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = start(tmp_path, "mine", "upernet")
    job = training(tmp_path, "upernet")
    deadline = time.monotonic() + 500
    while not list(job.glob("checkpoints/step-*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    words = [sys.executable, "-m", "harness.cli", "cancel", "mine.py", *TINY, "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    _, said = run.communicate(timeout=60)
    assert run.returncode == 75, said
    (result,) = json.loads(done.stdout)["jobs"]
    step = max(int(path.stem.removeprefix("step-")) for path in job.glob("checkpoints/step-*.pt"))
    assert (result["state"], result["reason"]) == ("stopped", f"saved at step {step}")
    outcome = read_json(job / "outcome.json")
    assert (outcome["status"], outcome["step"]) == ("cancelled", step)
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (again.returncode, json.loads(again.stdout)["jobs"]) == (0, [])
    assert "no job of this plan is running or waiting" in again.stderr
