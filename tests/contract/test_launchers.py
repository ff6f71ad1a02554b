"""Every file in harness/launch/launchers: a launch starts, ends, can be stopped, and leaves nobody behind."""

import inspect
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny_jobs import training

from harness.common.atomic_files import read_json
from harness.config import plugins
from harness.config.compose import PluginSpec
from harness.jobdir.replay import Replay
from harness.launch.launchers import inline
from harness.launch.launchers._environment import child_environment
from harness.launch.supervisor import Launcher

NAMES = plugins.names("launchers")
LOCAL = [name for name in NAMES if name in ("inline", "torchrun")]  # others need a machine of their own
METHODS = ("warm", "start", "running", "signal", "close")


@pytest.fixture(params=LOCAL)
def launcher(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HARNESS_THREADS", "1")
    made: Launcher = plugins.load("launchers", request.param).Launcher(1, tmp_path / "logs")
    yield made
    if made.running() and made.log.exists():  # a test broke off: let the ranks end before what watches them
        made.signal(signal.SIGTERM)
        wait(made)
    made.close()


def wait(launcher: Launcher, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while launcher.running():
        assert time.monotonic() < deadline, launcher.log.read_text()
        time.sleep(0.05)


def wait_for_step(folder: Path, step: int, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while max(Replay.of(folder / "events.jsonl").losses, default=-1) < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_what_the_supervisor_calls(name: str, tmp_path: Path) -> None:
    cls = plugins.load("launchers", name).Launcher
    assert cls.__doc__
    for method in METHODS:
        theirs = inspect.signature(getattr(Launcher, method)).parameters
        assert list(inspect.signature(getattr(cls, method)).parameters) == list(theirs)
    assert list(inspect.signature(cls).parameters)[:2] == ["nproc", "logs"]


@pytest.mark.parametrize("name", LOCAL)
def test_making_one_starts_nothing(name: str, tmp_path: Path) -> None:
    made = plugins.load("launchers", name).Launcher(1, tmp_path / "logs")
    assert made.log.parent == tmp_path / "logs"
    made.signal(signal.SIGTERM)
    made.close()
    made.close()
    assert not (tmp_path / "logs").exists()


def test_launches_run_one_after_the_other(launcher: Launcher, tmp_path: Path) -> None:
    good = training(tmp_path, "a" * 16, "upernet", iterations=1)
    bad = training(tmp_path, "b" * 16, "upernet", encoder=PluginSpec("beit", {"model": "beit_of_nobody"}))
    for folder, status in ((bad, "failed"), (good, "finished")):
        launcher.start([folder])
        wait(launcher)
        assert read_json(folder / "outcome.json")["status"] == status
    assert launcher.log.is_file()


@pytest.mark.slow
def test_a_signal_is_passed_on_and_a_checkpoint_is_left(launcher: Launcher, tmp_path: Path) -> None:
    folder = training(tmp_path, "a" * 16, "upernet", iterations=100_000, checkpoint_every=100_000)
    launcher.start([folder])
    wait_for_step(folder, 1)
    assert launcher.running()
    launcher.signal(signal.SIGTERM)
    wait(launcher)
    assert read_json(folder / "outcome.json")["status"] == "preempted"
    assert list((folder / "checkpoints").glob("*"))


@pytest.mark.slow
def test_a_worker_that_dies_ends_its_launch(launcher: Launcher, tmp_path: Path) -> None:
    folder = training(tmp_path, "a" * 16, "upernet", iterations=100_000, checkpoint_every=100_000)
    launcher.start([folder])
    wait_for_step(folder, 1)
    launcher.signal(signal.SIGKILL)
    wait(launcher)
    lengths, journal_file = [0, 1], folder / "events.jsonl"
    deadline = time.monotonic() + 60
    while lengths[-1] != lengths[-2] and time.monotonic() < deadline:
        time.sleep(5)  # many iterations
        lengths.append(journal_file.stat().st_size)
    assert lengths[-1] == lengths[-2], "a rank outlived its launch"
    assert not (folder / "outcome.json").exists()


LEFT_OVER = {
    **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "1", "GROUP_RANK": "1"},
    **{"MASTER_ADDR": "gone.invalid", "MASTER_PORT": "1", "ROLE_RANK": "1", "TORCHELASTIC_RUN_ID": "old"},
    **{"PET_NNODES": "2", "PET_NPROC_PER_NODE": "8", "PET_NODE_RANK": "1", "PET_RDZV_ENDPOINT": "gone.invalid:1"},
    **{"GLOO_SOCKET_IFNAME": "gone0", "GIT_DIR": "/nowhere"},
}


class Launched(NamedTuple):
    """A launch that has ended."""

    nproc: int
    outcome: dict[str, Any]
    log: str


@pytest.fixture(scope="module", params=[("inline", 1), ("torchrun", 2)], ids=["inline-1", "torchrun-2"])
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """A training of one iteration, begun among another launch's variables, OpenMP's threads, and a site that prints."""
    (name, nproc), folder = request.param, tmp_path_factory.mktemp("launched")
    (folder / "site").mkdir()
    printing = "import os\nprint('module load cuda', flush=True)\nos.write(1, b'more\\n')\n"
    (folder / "site" / "sitecustomize.py").write_text(printing)
    # neither this machine's share of threads nor torchrun's own 1
    variables = {**LEFT_OVER, "SLURM_PROCID": "3", "OMP_NUM_THREADS": "3", "PYTHONPATH": str(folder / "site")}
    job = training(folder, "a" * 16, "upernet", iterations=1)
    launcher: Launcher = plugins.load("launchers", name).Launcher(nproc, folder / "logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_THREADS", raising=False)
        for key, value in variables.items():
            patch.setenv(key, value)
        try:
            launcher.start([job])
            wait(launcher, 120)
            return Launched(nproc, read_json(job / "outcome.json"), launcher.log.read_text())
        finally:
            launcher.close()


def test_a_launch_heeds_no_variables_of_another_launch(launched: Launched) -> None:
    assert (launched.outcome["status"], launched.outcome["provenance"]["world"]) == ("finished", launched.nproc)


def test_ranks_have_the_threads_that_openmp_was_given(launched: Launched) -> None:
    assert launched.outcome["provenance"]["threads"] == 3


def test_what_is_printed_in_a_worker_is_no_answer(launched: Launched) -> None:
    assert launched.outcome["status"] == "finished"
    assert "module load cuda" in launched.log


def test_a_worker_that_cannot_start_ends_its_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    launcher: Launcher = plugins.load("launchers", "inline").Launcher(1, tmp_path / "logs")
    for _ in range(2):
        launcher.start([tmp_path])
        wait(launcher, 30)
        assert not (tmp_path / "outcome.json").exists()
    launcher.close()
    assert not launcher.running()


def test_a_worker_that_was_sent_nothing_is_not_waited_for(tmp_path: Path) -> None:
    launcher = inline.Launcher(1, tmp_path / "logs")
    launcher.warm()
    assert launcher._worker is not None
    process = launcher._worker.process
    launcher.close()
    assert process.returncode == -signal.SIGKILL


def test_ranks_inherit_no_database_and_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in LEFT_OVER.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    monkeypatch.setenv("HARNESS_STORAGE", "postgresql://me:secret@host/study")
    monkeypatch.setenv("OTHER", "kept")
    found = child_environment()
    assert not {"MLFLOW_TRACKING_URI", "HARNESS_STORAGE", *LEFT_OVER} & set(found) - {"GLOO_SOCKET_IFNAME"}
    assert found["OTHER"] == "kept"
    assert json.dumps(found)
    assert os.environ["MLFLOW_TRACKING_URI"]
