"""`harness` in the test's own process, its ranks too: for tests of what comes out, where no process is tested.

A command imports MLflow, its workers torch: 13 s of a processor for the smallest run, of which the run itself is 3.
"""

import io
import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from harness import cli
from harness.engine import preflight as engine_preflight
from harness.engine.runtime import Stop, this_rank
from harness.engine.worker import launch
from harness.launch import preflight
from harness.launch.launchers import inline


class Launcher:
    """The inline launcher without its child: a launch has ended when `start` returns."""

    def __init__(self, nproc: int, logs: Path) -> None:
        assert nproc == 1
        self.log = logs / "worker.log"

    def warm(self) -> None:
        """Nothing: this process has imported torch."""

    def preflight(self, question: str) -> Callable[[], preflight.Problem]:
        """What is wrong with a plan's networks."""
        return answered(question)

    def start(self, directories: Sequence[Path]) -> None:
        """Run a launch to its end."""
        launch(directories, this_rank(), Stop())

    def running(self) -> bool:
        """Whether it is still at work: never."""
        return False

    def signal(self, number: int) -> None:
        """Nothing: no launch goes on that a signal could stop."""

    def close(self) -> None:
        """Nothing."""


def answered(question: str) -> Callable[[], preflight.Problem]:
    """What is wrong with a plan's networks, whatever the memory; as preflight.ask_child, without the child."""
    return lambda: preflight.Problem(engine_preflight.first_problem(json.loads(question) | {"here": False}))


def harness(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The exit code and the words of a command given in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder), redirect_stdout(out), redirect_stderr(err):
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(inline, "Launcher", Launcher)
        code = cli.main(list(words))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
