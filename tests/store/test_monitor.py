"""MLflow's monitor of this node: begun again after its end, its steps go on; none without a GPU."""

import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from harness.core import machine
from harness.store import monitor
from harness.store.monitor import Monitor
from harness.store.tracking import Tracking


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with a GPU, as far as we ask; MLflow's monitor finds none and tells of the CPU."""
    pytest.importorskip("psutil")
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    monkeypatch.setattr(monitor, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))


def test_begun_again_it_goes_on(gpu: None, tmp_path: Path) -> None:
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    run = store.child(store.experiment("one"), "0" * 32, "train", {})
    watches = Monitor(store.uri, every=0.05)
    key, seen = f"system/{os.uname().nodename}/cpu_utilization_percentage", 0
    for _ in range(2):
        watches.watch(run)
        deadline = time.monotonic() + 60
        while watches._inner._logging_step <= seen:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        watches.finish()  # which tells what it has gathered
        steps = [point.step for point in store.connect().get_metric_history(run, key)]
        assert steps == list(range(len(steps)))
        assert len(steps) > seen
        seen = len(steps)
    watches.finish()


def test_without_a_gpu_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    begun: list[object] = []
    monkeypatch.setattr(monitor, "made", lambda *arguments: begun.append(arguments))
    watches = Monitor("sqlite:///nowhere.db")
    watches.watch("0" * 32)
    watches.finish()
    assert begun == []
