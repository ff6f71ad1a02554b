"""Locks: one at a time, given back by the dead, named while one waits, done without where there are none."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.common.errors import UnfitError
from harness.common.locks import TELL, Lock

HOLD = """
import sys
from harness.common.locks import Lock
with Lock(sys.argv[1]):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def test_who_has_it_is_said_within_ten_seconds(tmp_path: Path, holder, caplog) -> None:
    assert TELL < 10
    with pytest.raises(UnfitError, match=rf"\(process {holder.pid}\) has not released it within 1 s; wait"):
        Lock(tmp_path / "lock", patience=1.0, tell=0.2).__enter__()
    assert f"(process {holder.pid}) has; at most 1 s" in caplog.text


def test_a_killed_process_gives_it_back(tmp_path: Path, holder) -> None:
    holder.kill()
    holder.wait()
    with Lock(tmp_path / "lock", patience=5.0) as lock:
        assert lock.is_locked
        assert f"(process {os.getpid()})" in (tmp_path / "lock").read_text()


def test_threads_exclude_each_other_and_a_thread_may_enter_twice(tmp_path: Path) -> None:
    lock, order = Lock(tmp_path / "lock"), []

    def other() -> None:
        with lock:
            order.append("other")

    with lock, lock:
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
    assert not lock.is_locked


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_it_is_done_without_where_the_file_system_has_none(tmp_path: Path, monkeypatch, caplog, number: int) -> None:
    def absent(file: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", absent)
    with Lock(tmp_path / "lock"):
        pass
    assert "no file locks on this file system" in caplog.text


def test_its_file_is_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with Lock(tmp_path / "lock"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o664
