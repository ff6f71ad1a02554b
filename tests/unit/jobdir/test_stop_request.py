"""A request to end that a process obeys by itself."""

import threading
import time
from pathlib import Path

import pytest

from harness.common.signals import Stopped, stop_signals
from harness.jobdir import stop_request
from harness.jobdir.stop_request import StopRequest, obeyed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_request, "LOOK", 0.05)


@pytest.mark.parametrize("user", ["ben", None], ids=["another's", "ours"])
def test_a_new_request_is_a_ctrl_c(user: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "stop.json"
    StopRequest().write(file)
    request = StopRequest() if user is None else StopRequest(user=user)
    threading.Timer(0.3, request.write, [file]).start()
    begun = time.monotonic()
    with pytest.raises(Stopped) as stop, stop_signals(), obeyed(file, StopRequest.read(file)):
        time.sleep(30)
    assert 0.2 < time.monotonic() - begun < 20
    assert stop.value.status == "cancelled"
    assert caplog.messages == [f"{request.who} asks this run to end (`harness cancel`)"]


def test_one_that_was_written_before_the_start_counts_where_the_last_was_another(tmp_path: Path) -> None:
    file = tmp_path / "stop.json"
    last = StopRequest()
    StopRequest().write(file)
    with pytest.raises(Stopped), stop_signals(), obeyed(file, last):
        time.sleep(30)


@pytest.mark.parametrize("there", [True, False])
def test_without_a_new_one_the_work_is_done(there: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, steps, threads = tmp_path / "stop.json", 0, threading.active_count()
    if there:
        StopRequest().write(file)
    with stop_signals(), obeyed(file, StopRequest.read(file)):
        for _ in range(30):
            time.sleep(0.01)
            steps += 1
    StopRequest().write(file)  # after its end
    time.sleep(0.2)
    assert steps == 30
    assert caplog.messages == []
    assert threading.active_count() == threads
