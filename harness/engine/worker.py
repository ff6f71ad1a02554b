"""Entry of a rank: `python -m harness.engine.worker [--serve IN OUT] [JOBDIR ...]`.

Runs the given job directories as one launch and exits 0, 1 (a job failed) or 75 (stopped by a signal). With --serve it
reads launches as JSON lines {"jobs": [dirs]} from the descriptor IN, answers each with one JSON line on OUT and stays
warm: stdout is anybody's, and a line that is printed there is no answer. {"preflight": question} is answered as well.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

from harness.common import collector, parent
from harness.common.atomic_files import JsonObject
from harness.common.signals import PREEMPTED
from harness.engine.stop import Stop, Stopped
from harness.jobdir import lease
from harness.jobdir.lease import SupersededError

STOP = Stop()
if __name__ == "__main__":  # before torch: a signal that comes during its import is kept
    parent.die_with_parent()
    STOP.install()
    collector.pause()

from harness.engine import distributed, evaluate, jobs, preflight, runtime, train  # noqa: E402
from harness.engine.evaluate import Task  # noqa: E402
from harness.engine.jobs import Ending  # noqa: E402
from harness.engine.monitor import Monitor  # noqa: E402
from harness.engine.runtime import Rank  # noqa: E402
from harness.plan import spec  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.engine.worker", description=__doc__)
    parser.add_argument("jobs", nargs="*", type=Path, metavar="JOBDIR")
    help_serve = "descriptors: launches are read from IN until it ends, and answered on OUT"
    parser.add_argument("--serve", nargs=2, type=int, metavar=("IN", "OUT"), help=help_serve)
    options = parser.parse_args(arguments)
    return serve(STOP, *options.serve) if options.serve else launch(options.jobs, runtime.this_rank(), STOP)


def serve(stop: Stop, source: int, target: int) -> int:
    """Run launches from a descriptor until it ends or a signal comes, and answer each on another."""
    with os.fdopen(source) as lines, os.fdopen(target, "w") as answers:
        while line := _next_line(lines, stop):
            asked = json.loads(line)
            if "preflight" in asked:
                answer = preflight_in_fork(asked["preflight"], stop)
            else:
                folders = [Path(folder) for folder in asked["jobs"]]
                answer = {"exit_code": launch(folders, runtime.this_rank(), stop)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
            if stop.status is not None:
                return PREEMPTED
    return 0


def preflight_in_fork(question: JsonObject, stop: Stop) -> JsonObject:
    """Return what is wrong with a plan's networks, found in a fork: this process stays as new, without a GPU in use."""
    stop.idle = True
    try:
        with ProcessPoolExecutor(1, get_context("fork"), initializer=parent.die_with_forking_process) as pool:
            return {"problem": pool.submit(preflight.first_problem, question).result()}
    except BrokenProcessPool:
        return {"broken": "the process that tried them was killed"}
    finally:
        stop.idle = False


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
        runtime.deterministic(job.launch.deterministic)  # before NCCL, whose sums in the switch have no order
        if folder == folders[0] and job.launch.stall and job.launch.attempt is not None:
            stop.watch(lease.stacks(folder, job.launch.attempt, rank.rank), 60 * job.launch.stall)

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
    """Return the ending of a job that a later attempt has, which is not written; None where it is still ours."""
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
    collector.resume()
    code = main()
    collector.freeze_for_exit()
    sys.exit(code)
