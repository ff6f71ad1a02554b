"""Who runs a job, with real processes: taken once, taken over from the dead, and only from them."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from harness.jobdir import lease
from harness.jobdir.lease import Claim, Holder, SupersededError

HOLD = """
    import sys, time
    from pathlib import Path
    from harness.jobdir import lease
    got = lease.Claim(Path(sys.argv[1])).take()
    if got is None:
        print("refused", flush=True)
        sys.exit()
    with lease.heartbeat([got], every=0.05):
        print(got.number, flush=True)
        sys.stdin.readline()
"""


def start(folder):
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the job."""
    process = start(tmp_path)
    assert process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(folder, monkeypatch):
    """Look at the folder as if from another machine: process ids say nothing."""
    monkeypatch.setattr(lease, "machine", lambda: "another")


def test_a_free_job_is_taken_and_released(tmp_path):
    got = Claim(tmp_path).take()
    assert got.number == 1
    assert lease.current_holder(tmp_path).pid == got.holder.pid
    got.renew(released=True)
    assert lease.current_holder(tmp_path) is None
    assert Claim(tmp_path).take().number == 2


def test_of_many_processes_at_once_one_gets_it(tmp_path):
    processes = [start(tmp_path) for _ in range(6)]
    said = sorted(process.stdout.readline().strip() for process in processes)
    for process in processes:
        process.communicate("\n")
    assert said == ["1", *["refused"] * 5]
    assert lease.latest_holder(tmp_path).released


def test_a_living_holder_keeps_it_and_is_named(tmp_path, holder):
    claim = Claim(tmp_path)
    assert claim.take() is None
    assert f"(process {holder.pid})" in claim.holder.who


def test_the_dead_of_this_machine_are_known_at_once(tmp_path, holder):
    claim = Claim(tmp_path)
    assert claim.take() is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert claim.take().number == 2


def test_a_holder_that_counts_on_is_alive_wherever_it_is(tmp_path, holder, monkeypatch):
    elsewhere(tmp_path, monkeypatch)
    claim = Claim(tmp_path, dead=0.5)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert claim.take() is None
        time.sleep(0.05)


def test_a_holder_elsewhere_that_stands_still_is_dead(tmp_path, holder, monkeypatch):
    elsewhere(tmp_path, monkeypatch)
    claim = Claim(tmp_path, dead=0.5)
    assert claim.take() is None
    holder.send_signal(signal.SIGSTOP)  # as a machine that is cut off: not dead, and silent
    time.sleep(0.1)
    begun = time.monotonic()
    while (got := claim.take()) is None:
        time.sleep(0.05)
    assert 0.3 < time.monotonic() - begun < 5
    holder.send_signal(signal.SIGCONT)
    time.sleep(0.3)  # it counts again, and sees that it was taken over
    assert lease.latest(tmp_path) == got.number == 2
    got.renew()
    assert not got.superseded


def test_one_look_takes_a_holder_elsewhere_for_dead_that_has_long_not_counted(tmp_path, monkeypatch):
    got = Claim(tmp_path).take()
    old = time.time() - 3 * 86400
    os.utime(lease.path_of(tmp_path, 1), (old, old))
    assert lease.current_holder(tmp_path) == got.holder, "its process is seen to live"
    elsewhere(tmp_path, monkeypatch)
    assert lease.current_holder(tmp_path) is None
    assert Claim(tmp_path).take() is None, "to take over, it is watched"
    got.renew()
    assert lease.current_holder(tmp_path) == got.holder
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["000001.json"]


def test_a_lease_taken_over_is_superseded_and_cannot_be_renewed(tmp_path, monkeypatch):
    first = Claim(tmp_path).take()
    elsewhere(tmp_path, monkeypatch)
    second = Claim(tmp_path, dead=0.0).take()
    before = lease.read(tmp_path, 1)
    first.renew()
    assert first.superseded
    assert lease.read(tmp_path, 1) == before
    assert not second.superseded
    lease.check(tmp_path, 2)
    lease.check(tmp_path, None)  # a job that is run by hand
    with pytest.raises(SupersededError, match="attempt 1"):
        lease.check(tmp_path, 1)


def test_a_file_that_its_maker_died_over_blocks_nobody_for_good(tmp_path):
    path = lease.path_of(tmp_path, 1)
    path.parent.mkdir()
    path.touch()
    claim = Claim(tmp_path, dead=0.2)
    assert claim.take() is None
    time.sleep(0.3)
    assert claim.take().number == 2


def test_a_process_of_the_same_number_is_not_the_holder(tmp_path):
    got = Claim(tmp_path).take()
    assert not got.holder.gone
    assert Holder(1, machine=lease.machine(), pid=got.holder.pid, born="0").gone
