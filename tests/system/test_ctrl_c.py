"""Ctrl-C in every phase: exit 75, one line, nothing lost, and rerun the same command to continue.

A person's own plug-ins wait in the phase that PHASE names, so that the signal comes where it should.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TINY, all_runs, environment

pytestmark = pytest.mark.long

WAIT = """
import os, time
from pathlib import Path

def wait(phase):
    if os.environ.get("PHASE") == phase:
        Path(os.environ["MARK"]).touch()
        time.sleep({seconds})
"""
EXPERIMENT = '''"""One decoder that can be made to wait."""

from harness.plan.cell import Cell, Evaluate, Train
{wait}
TITLE, REPORT = "Slow", "slow_report"

def cells(config):
    wait("plan")
    return [Cell("slow", "Slow", Evaluate((Train(config, "slow"),)))]
'''
DECODER = '''"""UPerNet that can be made to wait."""

from dataclasses import dataclass

from models.decoders import upernet
{wait}
VERSION = 1
wait("import")

@dataclass(frozen=True)
class Config:
    """Widths."""

    channels: int = 16
    aux_channels: int = 16

class Decoder(upernet.Decoder):
    """The same network."""

    def forward(self, *args, **kwargs):
        wait("train")
        return super().forward(*args, **kwargs)

    def encode(self, *args, **kwargs):
        wait("evaluate")
        return super().encode(*args, **kwargs)
'''
REPORT = '''"""The comparison, which can be made to wait."""

from reports import comparison
{wait}
def render(frame, context):
    wait("report")
    return comparison.render(frame, context)
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Plug-ins whose waiting is short in the worker, which ends at the next step, and long in our own process."""
    for kind, name, text, seconds in (
        ("experiments", "slow", EXPERIMENT, 300),
        ("decoders", "slow", DECODER, 5),
        ("reports", "slow_report", REPORT, 300),
    ):
        (tmp_path / "own" / kind).mkdir(parents=True)
        (tmp_path / "own" / kind / f"{name}.py").write_text(
            text.replace("{wait}", WAIT.replace("{seconds}", str(seconds)))
        )
    return tmp_path


def interrupted(folder: Path, phase: str, number: int, *flags: str) -> tuple[int, str]:
    """Run the experiment and send a signal once it waits in the phase; its exit code and stderr."""
    command = [sys.executable, "-m", "harness.cli", "run", "slow", *TINY, "--plugins", "own", *flags]
    mark = folder / f"mark-{phase}"
    env = environment() | {"PHASE": phase, "MARK": str(mark)}
    running = subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 300
    while phase and not mark.exists() and running.poll() is None:
        assert time.monotonic() < deadline, f"{phase} was not reached"
        time.sleep(0.05)
    if phase:
        os.kill(running.pid, number)
    _, said = running.communicate(timeout=300)
    return running.returncode, said


def stopped(phase: str, code: int, said: str, name: str) -> None:
    assert code == 75, f"{phase}: {said}"
    assert "Traceback" not in said, f"{phase}: {said}"
    (line,) = [line for line in said.splitlines() if line.startswith("harness: ")]
    assert line == f"harness: stopped by {name}: finished work is kept; rerun the same command to continue"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["by hand", "by a scheduler"])
def test_planning(own: Path, number: signal.Signals):
    stopped("plan", *interrupted(own, "plan", number), number.name)
    assert not (own / "runs").exists()


@pytest.mark.slow
def test_every_phase_of_one_run(own: Path):
    for phase in ("plan", "import", "train", "evaluate", "report"):
        stopped(phase, *interrupted(own, phase, signal.SIGINT), "SIGINT")
    code, said = interrupted(own, "", 0)
    assert code == 0, said
    assert "0 jobs executed, 2 already done" in said  # what had finished before the report was kept
    runs = {run.info.run_name: run.info.status for run in all_runs(own)}
    assert runs["train/slow/seed0"] == runs["slow/seed0"] == "FINISHED"
    (parent,) = [name for name in runs if name.startswith("slow ·")]
    assert runs[parent] == "FINISHED"
