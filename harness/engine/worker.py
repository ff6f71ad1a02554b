"""Entry of a rank: `python -m harness.engine.worker [--serve] [JOBDIR ...]`.

Runs the given job directories as one launch and exits 0, 1 (a job failed) or 75 (stopped by a signal). With --serve it
reads launches as JSON lines {"jobs": [dirs]} from stdin, answers each with one JSON line on stdout and stays warm.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from harness.common import parent
from harness.common.signals import PREEMPTED
from harness.engine.stop import Stop, Stopped
from harness.jobdir import lease
from harness.jobdir.lease import SupersededError

STOP = Stop()
if __name__ == "__main__":  # before torch: a signal that comes during its import is kept
    parent.die_with_parent()
    STOP.install()

from harness.engine import distributed, evaluate, jobs, runtime, train  # noqa: E402
from harness.engine.evaluate import Task  # noqa: E402
from harness.engine.jobs import Ending  # noqa: E402
from harness.engine.monitor import Monitor  # noqa: E402
from harness.engine.runtime import Rank  # noqa: E402
from harness.plan import spec  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.engine.worker", description=__doc__)
    parser.add_argument("jobs", nargs="*", type=Path, metavar="JOBDIR")
    parser.add_argument("--serve", action="store_true", help="read launches from stdin until it ends")
    options = parser.parse_args(arguments)
    rank = runtime.this_rank()
    return serve(rank, STOP) if options.serve else launch(options.jobs, rank, STOP)


def serve(rank: Rank, stop: Stop) -> int:
    """Launches from stdin, until it ends or a signal comes; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    while line := _next_line(sys.stdin, stop):
        folders = [Path(folder) for folder in json.loads(line)["jobs"]]
        code = launch(folders, rank, stop)
        answers.write(json.dumps({"jobs": [str(folder) for folder in folders], "exit_code": code}) + "\n")
        answers.flush()
        if stop.status is not None:
            return PREEMPTED
    return 0


def launch(folders: Sequence[Path], rank: Rank, stop: Stop) -> int:
    """Run the jobs, trainings first, then evaluations that read the same frames together; the exit code."""
    endings: list[Ending] = []
    allowed: dict[Path, Callable[[], None]] = {}  # folder -> raises once a later attempt has the job
    guard = partial(guarded, endings, rank, allowed)
    kinds: dict[str, list[Path]] = {"train": [], "evaluate": []}
    tasks: list[Task] = []

    def sort(folder: Path) -> None:
        job = spec.read(folder)
        allowed[folder] = jobs.ours(folder, job)
        kinds[job.kind].append(folder)
        runtime.deterministic(bool(job.launch.deterministic))  # before NCCL, whose sums in the switch have no order
        if folder == folders[0] and job.launch.stall and job.launch.attempt is not None:
            stop.watch(lease.stacks(folder, job.launch.attempt, rank.rank), job.launch.stall)

    for folder in folders:
        guard([folder], sort, folder)
    with Monitor(folders, partial(check, allowed, folders)):
        with distributed.process_group(rank) if kinds["train"] else nullcontext():
            for folder in kinds["train"]:
                guard([folder], train.train, folder, rank, stop)
        for folder in kinds["evaluate"]:
            guard([folder], lambda folder: tasks.append(evaluate.task(folder)), folder)
        for group in evaluate.same_frames(tasks):
            guard([task.folder for task in group], evaluate.evaluate, group, rank, stop)
    stop.unwatch()
    if any(ending.status == "failed" for ending in endings):
        return 1
    return PREEMPTED if any(ending.status not in ("finished", "pruned") for ending in endings) else 0


def guarded(
    endings: list[Ending],
    rank: Rank,
    allowed: Mapping[Path, Callable[[], None]],
    folders: Sequence[Path],
    work: Callable[..., Ending | None],
    *arguments: Any,
) -> None:
    """Do some work for jobs, and write down how it ended for each of them, unless a later attempt has them by now.

    A finished evaluation gets no outcome here: no rank knows whether the others have finished their videos.
    """
    begun = time.monotonic()
    try:
        check(allowed, folders)
        ending = work(*arguments)
        results = [ending] if ending is not None else []
    except Stopped as stop:
        results = [jobs.stopped(stop.status, evaluate.done(folder)) for folder in folders]
    except Exception as error:
        results = [taken(allowed, folder) or jobs.failure(folder, error) for folder in folders]
    for folder, result in zip(folders, results, strict=bool(results)):
        result = taken(allowed, folder) or result
        endings.append(result)
        if result.status == "failed" or (rank.first and result.status != "superseded"):
            jobs.end(folder, result, time.monotonic() - begun, rank)


def check(allowed: Mapping[Path, Callable[[], None]], folders: Sequence[Path]) -> None:
    """Raise SupersededError where a later attempt has one of the jobs."""
    for folder in folders:
        allowed.get(folder, lambda: None)()


def taken(allowed: Mapping[Path, Callable[[], None]], folder: Path) -> Ending | None:
    """The ending of a job that a later attempt has, which is not written; None where it is still ours."""
    try:
        check(allowed, [folder])
    except SupersededError as late:
        return Ending("superseded", reason=str(late), exit_code=late.exit_code)
    return None


def _next_line(source: TextIO, stop: Stop) -> str:
    stop.idle = True
    try:
        return source.readline()
    finally:
        stop.idle = False


if __name__ == "__main__":
    sys.exit(main())
