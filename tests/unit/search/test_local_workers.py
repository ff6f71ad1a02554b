"""Several workers on one node: each one's part of the machine, and what the death of one comes to."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest

from harness.common import machine
from harness.common.errors import UnfitError, UsageError
from harness.search import local_workers


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UsageError, match=r"--workers 9: 9 workers on 8 GPU\(s\); at most 8"):
        local_workers.share(9, None)
    with pytest.raises(UsageError, match=r"at most 2 fit"):
        local_workers.share(3, 4)
    assert [part["CUDA_VISIBLE_DEVICES"] for part in local_workers.share(3, None)] == ["0,1", "2,3", "4,5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,3")
    monkeypatch.setattr(machine, "gpus", lambda: 2)
    assert [part["CUDA_VISIBLE_DEVICES"] for part in local_workers.share(2, None)] == ["7", "3"]


def workers_ending(*codes: int) -> Callable[[Mapping[str, object], int, Mapping[str, str]], local_workers.Member]:
    """In place of `local_workers.start`: real processes that end with these exit codes, one after the other."""
    following = iter(codes)

    def start(request: Mapping[str, object], index: int, part: Mapping[str, str]) -> local_workers.Member:
        words = [sys.executable, "-c", f"raise SystemExit({next(following)})"]
        return local_workers.Member(index, subprocess.Popen(words, stdout=subprocess.PIPE, text=True))

    return start


def test_three_deaths_in_which_nothing_came_further_end_the_study(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_workers, "start", workers_ending(9, 9, 9, 0))
    with pytest.raises(UnfitError, match="3 workers died in a row without any progress"):
        local_workers.run({}, [{}], lambda: 0)
    assert caplog.messages == ["worker 0 died (exit code 9); another will replace it"] * 2


def test_deaths_between_which_trials_came_further_do_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_workers, "start", workers_ending(9, 9, 9, 9, 0))
    progress = itertools.count()
    local_workers.run({}, [{}], lambda: next(progress))
    assert len(caplog.messages) == 4


def test_a_worker_that_dies_again_and_again_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = local_workers.Member(
        1, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=-1)
    )
    dying, started = workers_ending(*[9] * 20), []

    def start(request: Mapping[str, object], index: int, part: Mapping[str, str]) -> local_workers.Member:
        started.append(index)
        if started.count(0) == 5:  # the other one ends: the study has its trials
            assert healthy.process.stdin is not None
            healthy.process.stdin.write(b"\n")
            healthy.process.stdin.close()
        return healthy if index else dying(request, index, part)

    monkeypatch.setattr(local_workers, "start", start)
    monkeypatch.setattr(local_workers, "REST", 0.3)
    local_workers.run({}, [{}, {}], lambda: 0)
    assert started.count(1) == 1
    assert caplog.messages[:2] == ["worker 0 died (exit code 9); another will replace it"] * 2
    assert set(caplog.messages[2:]) == {"worker 0 died (exit code 9); another will replace it in 0 s"}


def test_workers_that_all_die_end_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_workers, "start", workers_ending(*[9] * 20))
    with pytest.raises(UnfitError, match="workers died in a row without any progress"):
        local_workers.run({}, [{}, {}], lambda: 0)


def test_a_workers_own_mistake_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_workers, "start", workers_ending(UsageError.exit_code))
    with pytest.raises(UsageError, match="a worker could not continue"):
        local_workers.run({}, [{}], lambda: 0)
