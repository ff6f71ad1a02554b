"""Closed terminals, terminals without Unicode, and containers with little shared memory or few open files."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import one_model
import pytest
from command_line import environment

from harness.common.atomic_files import read_json
from harness.jobdir.replay import Replay

LONG = ("run", one_model.FILE, *one_model.TINY, "train.epochs=100000", "train.checkpoint_every=100000", "--offline")


def start(folder: Path, *before: str) -> "subprocess.Popen[str]":
    command = [*before, sys.executable, "-m", "harness.cli", *LONG]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, cwd=folder, env=environment(), stdout=said, stderr=said, text=True)


def training(folder: Path, process: "subprocess.Popen[str]") -> Path:
    """The directory of the training, once it has made some steps."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in folder.glob("runs/jobs/*/events.jsonl"):
            if max(Replay.of(path).losses, default=0) >= 2:
                return path.parent
        assert process.poll() is None, (folder / "said").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "said").read_text())


def test_a_closed_terminal_leaves_a_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path, "env", "--default-signal=HUP")
    job = training(tmp_path, process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 75
    assert read_json(job / "outcome.json")["status"] == "preempted"
    assert list((job / "checkpoints").glob("*.pt"))
    assert "stopped by SIGHUP" in (tmp_path / "said").read_text()


def test_nohup_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, "nohup")
    job = training(tmp_path, process)
    process.send_signal(signal.SIGHUP)
    step = max(Replay.of(job / "events.jsonl").losses)
    deadline = time.monotonic() + 60
    while max(Replay.of(job / "events.jsonl").losses) <= step + 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75


SEVERAL = """
import sys
from harness.cli import entry
codes = []
plan = ["plan", "ablation_ensemble"]
for words in (["run", sys.argv[1]], plan, ["list"], [*plan, "--json"]):
    sys.argv[1:] = words
    try:
        entry()
    except SystemExit as end:
        codes.append(end.code)
    sys.stdout.flush()
    sys.stdout.buffer.write(bytes(1))
    sys.stdout.flush()
assert codes == [2, 0, 0, 0], codes
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict"])
def test_no_encoding_ends_a_command(tmp_path: Path, encoding: str) -> None:
    """Text that the terminal has not is written by its numbers; the JSON of --json is whole."""
    env = {**environment(), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", SEVERAL, "フ"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    *_, last, nothing = done.stdout.split(bytes(1))
    assert nothing == b""
    assert json.loads(last)


def limited(folder: Path, *shell: str) -> "subprocess.CompletedProcess[str]":
    words = ("run", one_model.FILE, *one_model.TINY, "train.workers=2", "train.crop=64", "--offline")
    command = ["sh", "-c", " && ".join([*shell, 'exec "$@"']), "sh", sys.executable, "-m", "harness.cli", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def test_little_shared_memory_is_named() -> None:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", "/dev/shm"]
    if os.getuid() or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a /dev/shm of its own cannot be mounted here")
    inside = 'unshare --mount sh -c \'mount -t tmpfs -o size=32k tmpfs /dev/shm && exec "$@"\' sh "$@"; exit $?'
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which may lie in the /dev/shm that is exchanged
        done = limited(Path(folder), inside)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: train")]
    assert "/dev/shm has 0.03 MiB free and train.workers=2 need " in line
    assert "--shm-size" in line
    assert "Traceback" not in done.stderr


def test_few_open_files_are_named(tmp_path: Path) -> None:
    done = limited(tmp_path, "ulimit -n 20")
    assert done.returncode in (1, 3), done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
