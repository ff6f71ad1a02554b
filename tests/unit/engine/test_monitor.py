"""A node's GPUs in its jobs' folders: by its first rank, counted on over attempts, never for a job that was lost."""

import threading
import time
from pathlib import Path

import pytest
import torch

from harness.engine import monitor
from harness.engine.monitor import Monitor
from harness.jobdir.events import Event, read_events
from harness.jobdir.lease import SupersededError
from harness.jobdir.paths import JobDir
from harness.jobdir.replay import Samples


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, as far as torch says; the second has no sensor for its power."""

    def power(at: int) -> int:
        if at:
            raise RuntimeError("Not Supported")
        return 350_000

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "utilization", lambda at: 90 + at)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda at: (at + 1) * 10**9)
    monkeypatch.setattr(torch.cuda, "power_draw", power)
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-7")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


def nobody() -> None:
    """Nothing stands against writing."""


def wait(path: Path, count: int) -> list[Event]:
    deadline = time.monotonic() + 60
    while len(events := read_events(path)[0]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return events


def test_what_gpus_say(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"utilization_percentage": 90, "memory_usage_megabytes": 1000.0, "power_usage_watts": 350.0}
    second = {"utilization_percentage": 91, "memory_usage_megabytes": 2000.0}
    both = {f"gpu_{at}_{key}": value for at, found in enumerate((first, second)) for key, value in found.items()}
    assert monitor.readings() == both
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert monitor.readings() == {key: value for key, value in both.items() if "gpu_0" in key}, "its own GPU alone"


def test_samples_of_two_attempts_are_counted_on(gpus: None, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    paths = [JobDir(folder).system / "gpu-7.jsonl" for folder in folders]
    before = 0
    for _ in range(2):
        with Monitor(folders, nobody, every=0.01):
            seen = [wait(path, before + 2) for path in paths]
        assert all(event.values == monitor.readings() for event in seen[0])
        before = len(read_events(paths[0])[0])
    for path in paths:
        assert [event.step for event in read_events(path)[0]] == list(range(before))
    found = Samples(JobDir(folders[0]))
    points = found.read()
    assert len(points) == 5 * before
    assert points[0][:3] == ("system/gpu-7/gpu_0_utilization_percentage", 90, 0)
    assert found.read() == []


def test_a_job_that_another_attempt_has_is_left_alone(gpus: None, tmp_path: Path) -> None:
    asked: list[int] = []

    def lost() -> None:
        asked.append(1)
        raise SupersededError("a later attempt has it")

    with Monitor([tmp_path], lost, every=0.01):
        deadline = time.monotonic() + 60
        while not asked:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert read_events(JobDir(tmp_path).system / "gpu-7.jsonl")[0] == []


def test_a_card_that_does_not_answer_holds_up_no_rank(
    gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hangs() -> dict[str, float]:
        asked.set()
        answer.wait(60)
        return {}

    monkeypatch.setattr(monitor, "PATIENCE", 0.01)
    with Monitor([tmp_path], nobody, every=0.001):
        monkeypatch.setattr(monitor, "readings", hangs)
        assert asked.wait(60)
    assert "monitor" in [thread.name for thread in threading.enumerate()], "it still waits, and nobody for it"
    answer.set()


@pytest.mark.parametrize("where", ["without a GPU", "on the node's second rank"])
def test_nobody_else_measures(where: str, gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "without a GPU":
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    else:
        monkeypatch.setenv("LOCAL_RANK", "1")
    with Monitor([tmp_path], nobody, every=0.001):
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
