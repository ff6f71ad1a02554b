"""Several workers on one node: processes that share a study's storage and root, each with its part of the machine.

Nothing is handed to them but what to search: which trial is next they settle in the storage. One that dies is replaced,
and its trial is taken up by whoever asks next.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.common import child, machine
from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.common.signals import PREEMPTED, Stopped, stop_signals
from harness.launch.supervisor import GRACE, POLL

DEATHS = 3  # in a row, with nothing come further in between, before it is given up, or its place rests
REST = 60.0  # seconds that such a place stays empty while others are at work


@dataclass
class Member:
    """A worker process; its last words come as one JSON line."""

    index: int
    process: "subprocess.Popen[str]"

    def words(self) -> dict[str, Any]:
        """What it said at its end: {"error", "code"}; {} where it said nothing."""
        assert self.process.stdout is not None
        with self.process:  # which closes its pipes
            lines = self.process.stdout.read().splitlines()
        try:
            said: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        except ValueError:
            return {}
        return said


def share(workers: int, nproc: int | None) -> list[dict[str, str]]:
    """Each worker's part of the machine, as its environment. Raises UsageError for more than there are GPUs for."""
    found, each = machine.gpus(), nproc or 1
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    if found and workers * each > found:
        what = f"{workers} × {each} processes" if each > 1 else f"{workers} workers"
        raise UsageError(
            f"--workers {workers}: {what} on {found} GPU(s); at most {found // each} fit, or none of --nproc {each}"
        )
    if not found:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if workers > 1 and workers * each > cores:
            what = f"{workers} × {each} processes" if each > 1 else f"{workers} workers"
            raise UsageError(f"--workers {workers}: {what} on {cores} core(s) and no GPU; at most {cores // each} fit")
        threads = str(max(1, cores // (workers * each)))
        return [{"HARNESS_THREADS": os.environ.get("HARNESS_THREADS", threads)} for _ in range(workers)]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = given.split(",") if given else [str(index) for index in range(found)]
    part = found // workers
    return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[index * part : (index + 1) * part])} for index in range(workers)]


def run(
    request: Mapping[str, Any],
    shares: Sequence[Mapping[str, str]],
    progress: Callable[[], int],
    say: Callable[[str], None],
) -> None:
    """Run workers until the study has its trials; `progress` grows with every look and every end of a trial.

    Raises Stopped after a signal, and the first worker's own error where the machine is unfit or a word is wrong.
    """
    request = {**request, "workers": len(shares)}
    crew: dict[int, Member] = {}
    empty = dict.fromkeys(range(len(shares)), 0.0)  # place -> when another worker takes it
    deaths, before, through = 0, progress(), False
    with stop_signals():
        try:
            while crew or empty:
                for index in [index for index, when in empty.items() if time.monotonic() >= when]:
                    crew[index] = start(request, index, shares[index])
                    del empty[index]
                time.sleep(POLL)
                for index, member in list(crew.items()):
                    code = member.process.poll()
                    if code is None:
                        continue
                    del crew[index]
                    said = member.words()
                    if code in (UsageError.exit_code, UnfitError.exit_code):
                        raise error(said, code)
                    if code == PREEMPTED:
                        raise Stopped(signal.SIGTERM)
                    through = through or code == 0  # the study has its trials
                    if through:
                        empty.clear()
                        continue
                    now = progress()
                    deaths, before = (1 if now > before else deaths + 1), now
                    if deaths >= DEATHS and not crew:
                        raise UnfitError(
                            f"{deaths} workers died one after the other and no trial came further, "
                            f"the last with exit code {code}; the same command goes on"
                        )
                    rest = REST if deaths >= DEATHS else 0
                    later = f" in {rest:.0f} s" if rest else ""
                    say(f"worker {index} died (exit code {code}); another takes its place{later}")
                    empty[index] = time.monotonic() + rest
        except BaseException as stop:
            dismiss(crew, stop.number if isinstance(stop, Stopped) else signal.SIGTERM)
            raise


def start(request: Mapping[str, Any], index: int, part: Mapping[str, str]) -> Member:
    """Start a worker; the storage's URL goes through a pipe, where no list of processes shows it."""
    process = subprocess.Popen(
        child.python("-m", "harness.search.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **part},
        start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**request, "index": index}) + "\n")
    process.stdin.flush()  # and stays open: a worker whose pipe ends has lost us, and stops
    return Member(index, process)


def dismiss(crew: Mapping[int, Member], number: int) -> None:
    """Pass a signal on and wait for the checkpoints; after GRACE seconds or a second signal they are killed."""
    deadline = time.monotonic() + GRACE + 10  # they wait for their ranks themselves
    for member in crew.values():
        member.process.send_signal(number)
    try:
        with stop_signals():
            while any(member.process.poll() is None for member in crew.values()) and time.monotonic() < deadline:
                time.sleep(POLL)
    except Stopped:
        pass
    for member in crew.values():
        with member.process:
            if member.process.poll() is None:
                member.process.kill()


def error(said: Mapping[str, Any], code: int) -> HarnessError:
    """A worker's error as ours."""
    kind = UsageError if code == UsageError.exit_code else UnfitError
    return kind(str(said.get("error") or "a worker could not go on"))
