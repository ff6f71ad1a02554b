"""Signals, beats and stacks of a rank, in real processes; none of it needs torch."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def start(code: str, *arguments: object, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, **options)


def test_a_rank_that_hangs_leaves_the_stacks_of_all_its_threads(tmp_path):
    code = """
        import sys, threading, time
        from pathlib import Path
        from harness.engine.stop import Stop
        def waits_for_a_peer():
            time.sleep(30)
        threading.Thread(target=waits_for_a_peer, daemon=True).start()
        stop = Stop()
        stop.watch(Path(sys.argv[1]), 0.5)
        for _ in range(10):
            time.sleep(0.1)
            stop.check()  # a second of work: no stacks
        print(Path(sys.argv[1]).stat().st_size, flush=True)
        time.sleep(30)
    """
    file = tmp_path / "stacks" / "rank-000.txt"
    process = start(code, file)
    assert process.stdout.readline() == "0\n"
    deadline = time.monotonic() + 60
    while "waits_for_a_peer" not in file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "most recent call first" in file.read_text()
    process.kill()
    process.communicate()


def test_beats_touch_the_file_and_good_work_leaves_none(tmp_path):
    code = """
        import os, sys, time
        from pathlib import Path
        from harness.engine.stop import Stop
        path, stop = Path(sys.argv[1]), Stop()
        stop.watch(path, 1.0)
        seen = set()
        for _ in range(5):
            time.sleep(0.1)
            stop.beat()
            seen.add(path.stat().st_mtime_ns)
        stop.unwatch()
        print(len(seen), path.exists())
    """
    assert start(code, tmp_path / "rank-000.txt").communicate()[0] == "5 False\n"


def test_a_signal_during_imports_is_kept():
    """The worker takes the signals over before it imports torch."""
    code = """
        import runpy, signal, sys
        class Signals:  # comes when the first heavy module is asked for
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    signal.raise_signal(signal.SIGUSR1)
                    from harness.engine import stop
                    print(sys.modules["__main__"].STOP.status, flush=True)
                    raise SystemExit(0)
        sys.meta_path.insert(0, Signals())
        sys.argv = ["worker"]
        runpy.run_module("harness.engine.worker", run_name="__main__", alter_sys=True)
    """
    process = start(code)
    assert process.communicate(timeout=120)[0] == "preempted\n"
    assert process.returncode == 0


def test_torchruns_agent_dies_with_its_parent(tmp_path):
    """Its parent is killed while it imports torch."""
    code = """
        import subprocess, sys, time
        agent = [sys.executable, "-m", "harness.launch.launchers._agent", "--help"]
        child = subprocess.Popen(agent, stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
        time.sleep(60)
    """
    process = start(code)
    agent = int(process.stdout.readline())
    stat = Path(f"/proc/{agent}/stat")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline, "torchrun outlived its supervisor"
        time.sleep(0.02)
    assert agent != os.getpid()
