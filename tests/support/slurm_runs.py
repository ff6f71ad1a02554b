"""What tests on a real Slurm share: commands there, their Slurm jobs, and waiting for these."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import in_process
from slurm_cluster import Cluster

from harness.common.atomic_files import read_json
from harness.jobdir.events import Checkpoint, read_events

WAIT = 1200  # seconds; a loaded machine starts torch in minutes
SECRET = "planted-hush-7"  # MLflow's password, in the environment of all that is run here


def environment(extra: dict[str, str]) -> dict[str, str]:
    """What a command has around it: MLflow's password and one thread, nothing of a tracker or an allocation."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "SLURM_"))}
    return {**kept, "MLFLOW_TRACKING_PASSWORD": SECRET, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1", **extra}


def harness(folder: Path, slurm: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on a cluster."""
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
    """The directory of the job of that kind."""
    return next(
        path.parent
        for path in (folder / "runs" / "jobs").glob("*/slurm.json")
        if read_json(path)["name"].startswith(kind)
    )


def wait_for_checkpoint(folder: Path, slurm: Cluster, after: int = 0) -> None:
    """Wait until the training has a checkpoint of a later step."""
    deadline = time.monotonic() + WAIT
    while True:
        events = read_events(job(folder, "train") / "events.jsonl")[0]
        if any(isinstance(event, Checkpoint) and event.step > after for event in events):
            return
        assert time.monotonic() < deadline, log_of(folder, "train") + slurm.said()
        time.sleep(0.1)


def log_of(folder: Path, kind: str) -> str:
    """What the Slurm job of that kind has logged."""
    path = Path(read_json(job(folder, kind) / "slurm.json")["log"])
    return path.read_text() if path.exists() else "no log"


def wait_for(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below a folder, once there is something."""
    deadline = time.monotonic() + 120
    while not (matches := list(folder.glob(pattern))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return matches


def leave(command: "subprocess.Popen[str]") -> None:
    """Press Ctrl-C in a command whose Slurm jobs have begun, and go on."""
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 75, said
    assert "the Slurm jobs continue" in said
