"""Every file in harness/launch/launchers: a launch starts, ends, can be stopped, and leaves nobody behind."""

import inspect
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

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


def outcome_of_one_launch(name: str, nproc: int, folder: Path) -> dict[str, Any]:
    """Launch a training of one iteration; what its outcome.json holds."""
    job = training(folder, "a" * 16, "upernet", iterations=1)
    launcher: Launcher = plugins.load("launchers", name).Launcher(nproc, folder / "logs")
    try:
        launcher.start([job])
        wait(launcher, 120)
    finally:
        launcher.close()
    return read_json(job / "outcome.json")


@pytest.mark.parametrize(("name", "nproc"), [("inline", 1), ("torchrun", 2)])
def test_a_launch_heeds_no_variables_of_another_launch(
    name: str, nproc: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {**LEFT_OVER, "HARNESS_THREADS": "1", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(key, value)
    outcome = outcome_of_one_launch(name, nproc, tmp_path)
    assert (outcome["status"], outcome["provenance"]["world"]) == ("finished", nproc)


@pytest.mark.parametrize(("name", "nproc"), [("inline", 1), ("torchrun", 2)])
def test_ranks_have_the_threads_that_openmp_was_given(
    name: str, nproc: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # neither this machine's share nor torchrun's own 1
    assert outcome_of_one_launch(name, nproc, tmp_path)["provenance"]["threads"] == 3


@pytest.mark.parametrize("name", LOCAL)
def test_what_is_printed_in_a_worker_is_no_answer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os\nprint('module load cuda', flush=True)\nos.write(1, b'more\\n')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("HARNESS_THREADS", "1")
    folder = training(tmp_path, "a" * 16, "upernet", iterations=1)
    launcher: Launcher = plugins.load("launchers", name).Launcher(1, tmp_path / "logs")
    try:
        launcher.start([folder])
        wait(launcher, 120)
        assert read_json(folder / "outcome.json")["status"] == "finished"
        assert "module load cuda" in launcher.log.read_text()
    finally:
        launcher.close()


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
