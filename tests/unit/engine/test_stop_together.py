"""Two real gloo ranks and a signal to one of them, or to both: they stop after the same step, with its checkpoint.

The model, crop and batch are the demo preset's, Decoder B. Seconds are printed: a speed is never asserted.
"""

import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow_server import WITHOUT, free_port
from tiny_jobs import write_job

from harness.config.compose import compose
from harness.engine import checkpoint
from harness.jobdir.events import Checkpoint, read_events
from harness.jobdir.replay import Replay
from harness.plan import plan
from harness.plan.job import Train

REPOSITORY = Path(__file__).parents[3]
SIGNALS = (  # and the ranks that get it; torchrun and Slurm hand it to all, a person may not
    (signal.SIGTERM, (0, 1)),
    (signal.SIGINT, (1,)),
    (signal.SIGUSR1, (0,)),
    (signal.SIGUSR2, (1,)),
)
RANK = """
    import json, os, sys
    from pathlib import Path
    from harness.engine.stop import Stop
    stop = Stop()
    stop.install()
    from harness.engine import jobs, runtime, worker
    said, stopped = [], jobs.stopped
    jobs.stopped = lambda status, step: said.append([status, step]) or stopped(status, step)
    for port, folder in zip(sys.argv[1::2], sys.argv[2::2]):
        os.environ["MASTER_PORT"] = port  # a meeting place each: the last one is still being left
        said.clear()
        stop.status = None
        code = worker.launch([Path(folder)], runtime.this_rank(), stop)
        print(json.dumps([code, *said]), flush=True)
"""


def start(rank: int, launches: list[str]) -> "subprocess.Popen[str]":
    place = {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", textwrap.dedent(RANK), *launches]
    env = {**WITHOUT, **place, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True)


def demo(root: Path, name: str) -> Path:
    """The demo's training of Decoder B, without an end."""
    made = plan.make(["ablation_ensemble"], compose("demo", ("train.checkpoint_every=100000",)), root)
    job = next(job for job in made.jobs if isinstance(job, Train) and job.decoder == "decoder_b")
    return write_job(root, replace(job.spec(), fingerprint=name, iterations=100_000))


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while Replay.of(folder / "events.jsonl").step < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_ranks_stop_after_the_same_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [demo(tmp_path, number.name) for number, _ in SIGNALS]
    launches = [word for folder in folders for word in (str(free_port()), str(folder))]
    ranks = [start(rank, launches) for rank in range(2)]
    took = {}
    try:
        for (number, receivers), folder in zip(SIGNALS, folders, strict=True):
            wait_for_step(folder, 3)
            sent = time.time()
            for rank in receivers:
                ranks[rank].send_signal(number)
            status = "cancelled" if number == signal.SIGINT else "preempted"
            outcomes = [json.loads(rank.stdout.readline()) for rank in ranks if rank.stdout is not None]
            found = json.loads((folder / "outcome.json").read_text())
            assert outcomes == [[75, [status, found["step"]]]] * 2
            assert (found["status"], found["exit_code"]) == (status, 75)
            assert checkpoint.latest(folder / "checkpoints", print) == found["step"] >= 3
            (saved,) = [event for event in read_events(folder / "events.jsonl")[0] if isinstance(event, Checkpoint)]
            took[number.name] = saved.time - sent  # written when it is on disk under its name
        assert [rank.wait(60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    with capsys.disabled():
        told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in took.items())
        print(f"\nseconds from signal to checkpoint, the demo's Decoder B on 2 ranks: {told}")
