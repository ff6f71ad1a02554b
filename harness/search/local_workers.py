"""Several workers on one node: processes that share a study's storage and root, each with its part of the machine.

Nothing is handed to them but what to search: which trial is next they settle in the storage. One that dies is replaced,
and its trial is taken up by whoever asks next.
"""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.common import child, machine
from harness.common.errors import UnfitError, UsageError
from harness.common.signals import PREEMPTED, Stopped, stop_signals
from harness.launch.supervisor import GRACE, POLL

log = logging.getLogger(__name__)

DEATHS = 3  # in a row, with nothing come further in between, before it is given up, or its place rests
REST = 60.0  # seconds that such a place stays empty while others are at work


@dataclass
class Member:
    """A worker process; an error comes as one JSON line at its end."""

    index: int
    process: "subprocess.Popen[str]"

    def error(self) -> str:
        """Return the error that it ended with; empty without one."""
        assert self.process.stdout is not None
        with self.process:  # which closes its pipes
            lines = self.process.stdout.read().splitlines()
        try:
            return str(json.loads(lines[-1]).get("error") or "") if lines else ""
        except ValueError:
            return ""


def share(workers: int, nproc: int | None) -> list[dict[str, str]]:
    """Return each worker's part of the machine, as its environment. Raise UsageError for more workers than GPUs."""
    gpus, each = machine.gpus(), nproc or 1
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    if gpus and workers * each > gpus:
        what = f"{workers} × {each} processes" if each > 1 else f"{workers} workers"
        raise UsageError(
            f"--workers {workers}: {what} on {gpus} GPU(s); at most {gpus // each} fit, or none of --nproc {each}"
        )
    if not gpus:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if workers > 1 and workers * each > cores:
            what = f"{workers} × {each} processes" if each > 1 else f"{workers} workers"
            raise UsageError(f"--workers {workers}: {what} on {cores} core(s) and no GPU; at most {cores // each} fit")
        threads = machine.threads() or str(max(1, cores // (workers * each)))
        return [{"HARNESS_THREADS": threads} for _ in range(workers)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(gpus)]
    part = gpus // workers
    return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[index * part : (index + 1) * part])} for index in range(workers)]


def run(
    request: Mapping[str, object],
    shares: Sequence[Mapping[str, str]],
    progress: Callable[[], int],
) -> None:
    """Run workers until the study has its trials; `progress` grows with every look and every end of a trial.

    Raise Stopped after a signal, and the first worker's own error where the machine is unfit or a word is wrong.
    """
    request = {**request, "workers": len(shares)}
    members: dict[int, Member] = {}
    empty = dict.fromkeys(range(len(shares)), 0.0)  # worker -> when another takes its place
    deaths, before, through = 0, progress(), False
    with stop_signals():
        try:
            while members or empty:
                for index in [index for index, when in empty.items() if time.monotonic() >= when]:
                    members[index] = start(request, index, shares[index])
                    del empty[index]
                time.sleep(POLL)
                for index, member in list(members.items()):
                    code = member.process.poll()
                    if code is None:
                        continue
                    del members[index]
                    error = member.error()
                    if code in (UsageError.exit_code, UnfitError.exit_code):
                        kind = UsageError if code == UsageError.exit_code else UnfitError
                        raise kind(error or "a worker could not continue")
                    if code == PREEMPTED:
                        raise Stopped(signal.SIGTERM)
                    through = through or code == 0  # the study has its trials
                    if through:
                        empty.clear()
                        continue
                    now = progress()
                    deaths, before = (1 if now > before else deaths + 1), now
                    if deaths >= DEATHS and not members:
                        raise UnfitError(
                            f"{deaths} workers died in a row without any progress, "
                            f"the last with exit code {code}; rerun the same command to continue"
                        )
                    rest = REST if deaths >= DEATHS else 0
                    later = f" in {rest:.0f} s" if rest else ""
                    log.warning(f"worker {index} died (exit code {code}); another will replace it{later}")
                    empty[index] = time.monotonic() + rest
        except BaseException as stop:
            dismiss(members, stop.number if isinstance(stop, Stopped) else signal.SIGTERM)
            raise


def start(request: Mapping[str, object], index: int, part: Mapping[str, str]) -> Member:
    """Start a worker; the storage's URL goes through a pipe, where no list of processes shows it."""
    process = subprocess.Popen(
        child.program("harness.search.worker"),
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


def dismiss(members: Mapping[int, Member], number: int) -> None:
    """Pass a signal on and wait for the checkpoints; after GRACE seconds or a second signal they are killed."""
    deadline = time.monotonic() + GRACE + 10  # they wait for their ranks themselves
    for member in members.values():
        member.process.send_signal(number)
    try:
        with stop_signals():
            while any(member.process.poll() is None for member in members.values()) and time.monotonic() < deadline:
                time.sleep(POLL)
    except Stopped:
        pass
    for member in members.values():
        with member.process:
            if member.process.poll() is None:
                member.process.kill()
