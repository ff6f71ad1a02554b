"""Several nodes by Slurm: a training whose ranks lie on two, what stops it, and what a node takes along when it goes.

The two nodes are this machine by two names. Whatever came between, the end is bit-equal to that of a node's two ranks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import in_process
import one_model
import pytest
import torch
from safetensors.torch import load_file
from slurm_cluster import Cluster, cluster
from slurm_runs import WAIT, harness, here, job, log_of, submitted, wait_for_checkpoint
from slurm_runs import environment as settings
from test_kills import alive, environment

from harness.common.atomic_files import read_json
from harness.jobdir.events import Begin, Checkpoint, Event, Progress, read_events
from harness.launch.launchers import slurm as launcher

K = TypeVar("K", bound=Event)
RUN = ("run", one_model.FILE, *one_model.TINY, "--offline")
NODES = ("--launcher", "slurm", "--nodes", "2", "--nproc", "1")
SHORT = ("train.epochs=30",)  # 60 iterations, so that a slow machine sees both ranks at work
LONG = ("train.epochs=60", "train.checkpoint_every=10")  # 120
NEVER = ("train.epochs=4000", "train.checkpoint_every=8000")  # no checkpoint but that of a signal
ENDS = 120  # seconds; a killed rank's launch takes three


class Rank(NamedTuple):
    """A rank at work, its torchrun, and where Slurm has put them."""

    rank: int
    node: str
    place: int  # of the node in the allocation
    pid: int
    agent: int
    step_daemon: int


def ranks(folder: Path) -> list[Rank]:
    """Those that are at a root's jobs, with the processes that read data for them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "harness.engine.worker" not in words or str(folder) not in " ".join(words):
                continue  # at once: a look at all processes may take longer than a short training
            agent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            daemon = int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        facts = dict(line.split("=", 1) for line in environment(pid) if "=" in line)
        if "RANK" in facts and alive(pid):
            node, place = facts["SLURMD_NODENAME"], int(facts["SLURM_NODEID"])
            found.append(Rank(int(facts["RANK"]), node, place, pid, agent, daemon))
    return sorted(found)


def wait_for_ranks(folder: Path, run: "subprocess.Popen[str] | None" = None) -> list[Rank]:
    """Both of them, before the run ends."""
    deadline = time.monotonic() + WAIT
    while True:
        found = ranks(folder)
        own = [one for one in found if one.agent not in {other.pid for other in found}]  # without who reads data
        if [one.rank for one in own] == [0, 1]:
            return own
        assert run is None or run.poll() is None, run.communicate()
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def assert_none_left(folder: Path, before: list[Rank]) -> None:
    deadline = time.monotonic() + 60
    while left := [pid for one in before for pid in (one.pid, one.agent) if alive(pid)] or ranks(folder):
        assert time.monotonic() < deadline, f"{left} go on"
        time.sleep(0.1)


def events(folder: Path, kind: type[K]) -> list[K]:
    """The training's."""
    return [event for event in read_events(job(folder, "train") / "events.jsonl")[0] if isinstance(event, kind)]


def torchrun_log(folder: Path) -> str:
    return (job(folder, "train").parent.parent / "logs" / f"slurm-{submitted(folder)['train']}.log").read_text()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("runs/jobs/*/weights.safetensors")
    return load_file(path)


def assert_equal(one: Path, other: Path) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def one_node(folder: Path, *words: str) -> Path:
    """The same plan by two ranks of one torchrun."""
    done = in_process.harness(folder, *RUN, *words, "--launcher", "torchrun", "--nproc", "2", **settings({}))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster(nodes=2) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_node(tmp_path_factory.mktemp("undisturbed"), *LONG)


def begin(folder: Path, slurm: Cluster, *words: str) -> tuple[str, list[Rank]]:
    """Submit, and wait for a checkpoint of the training, or for a step where it makes none."""
    left = harness(folder, slurm, *RUN, *words, *NODES, "--detach")
    assert left.returncode == 0, left.stderr
    if words == NEVER:
        deadline = time.monotonic() + WAIT
        while not events(folder, Progress):
            assert time.monotonic() < deadline, log_of(folder, "train") + slurm.said()
            time.sleep(0.1)
    else:
        wait_for_checkpoint(folder, slurm)
    return submitted(folder)["train"], wait_for_ranks(folder)


# --- without Slurm


def test_a_port_that_is_taken_is_passed_over() -> None:
    first = launcher.free_port(41)
    assert first == launcher.free_port(41)
    assert 20000 <= first < 32000
    with socket.socket() as taken:
        taken.bind(("", first))
        taken.listen()
        assert launcher.free_port(41) > first


def test_torchrun_waits_for_its_ranks_however_many_signals_come(tmp_path: Path) -> None:
    code = """
        import signal, sys, time
        from pathlib import Path
        from harness.common import parent
        parent.die_with_parent()
        signal.signal(signal.SIGUSR2, lambda number, frame: None)
        Path("ready").touch()
        signal.pause()
        time.sleep(3)
        Path("saved").touch()
    """
    (tmp_path / "rank.py").write_text("\n".join(line[8:] for line in code.splitlines()))
    words = launcher.Launcher(1, tmp_path).torchrun("--standalone")
    command = [*words[: words.index("-m", 3)], "rank.py"]
    with (tmp_path / "said.txt").open("w") as said:
        agent = subprocess.Popen(command, cwd=tmp_path, env=settings({}), stdout=said, stderr=said)
    deadline = time.monotonic() + WAIT
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.3)
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
        agent.send_signal(number)
        time.sleep(0.2)
    agent.wait(60)
    assert (tmp_path / "saved").exists(), (tmp_path / "said.txt").read_text()


# --- on two nodes


@pytest.mark.timeout(2 * WAIT)
def test_two_nodes_come_to_the_table_that_one_comes_to(slurm: Cluster, tmp_path: Path) -> None:
    root = tmp_path / "nodes"
    root.mkdir()
    command = [sys.executable, "-m", "harness.cli", *RUN, *SHORT, *NODES, "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, cwd=root, env=settings(slurm.environment), **pipes)  # type: ignore[call-overload]
    seen = wait_for_ranks(root, run)
    assert [one.rank for one in seen] == [0, 1]
    assert {one.node for one in seen} == set(slurm.nodes)
    assert len({one.agent for one in seen}) == 2
    said, told = run.communicate(timeout=WAIT)
    assert run.returncode == 0, told + log_of(root, "train")
    (row,) = json.loads(said)["experiments"][0]["rows"]
    assert row["status"] == "done"
    assert len(list((job(root, "evaluate") / "videos").glob("*.npz"))) == 2
    for kind in ("train", "evaluate"):
        (begun,) = (event for event in read_events(job(root, kind) / "events.jsonl")[0] if isinstance(event, Begin))
        assert begun.world == 2
    (tmp_path / "one").mkdir()
    assert_equal(root, one_node(tmp_path / "one", *SHORT))


@pytest.mark.timeout(2 * WAIT)
def test_a_rank_that_fails_on_the_second_node_says_why(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mine" / "decoders").mkdir(parents=True)
    (tmp_path / "mine" / "decoders" / "weak.py").write_text(
        "import os\nfrom dataclasses import dataclass\nfrom models.decoders import upernet\nVERSION = 1\n"
        "@dataclass(frozen=True)\nclass Config:\n    channels: int = 16\n    aux_channels: int = 16\n"
        "class Decoder(upernet.Decoder):\n    def __init__(self, *words):\n        super().__init__(*words)\n"
        "        if os.environ.get('SLURM_NODEID') == '1':\n            raise ValueError('a bad node')\n"
    )
    (tmp_path / "weak_alone.py").write_text(
        "from harness.plan.cell import Cell, Evaluate, Train\nTITLE, REPORT = 'Weak', 'comparison'\n"
        "def cells(config):\n    return [Cell('weak', 'Weak', Evaluate((Train(config, 'weak'),)))]\n"
    )
    words = ["run", "weak_alone.py", "--plugins", "mine", *one_model.TINY, "--offline", *NODES]
    done = here(tmp_path, slurm, *words)
    assert done.returncode == 1, done.stderr
    outcome = read_json(job(tmp_path, "train") / "outcome.json")
    assert outcome["status"] == "failed"
    assert "a bad node" in outcome["reason"]
    assert "1: harness.engine.worker FAILED" in torchrun_log(tmp_path)  # a line says which node it is of


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
def test_a_signal_to_all_nodes_is_one_checkpoint_and_a_requeue(
    slurm: Cluster, tmp_path: Path, undisturbed: Path
) -> None:
    number, before = begin(tmp_path, slurm, *LONG)
    slurm.run("scancel", "--signal=USR2", number)
    slurm.wait_for_requeue(number)
    saved = max(event.step for event in events(tmp_path, Checkpoint))
    assert saved % 10, "the signal found it between two checkpoints"
    assert_none_left(tmp_path, before)
    assert not list((job(tmp_path, "train") / "stacks").glob("attempt-1-*")), "a rank did not end by itself"
    slurm.wait(number, "COMPLETED")
    assert [event.step for event in events(tmp_path, Begin)] == [0, saved]
    assert [event.world for event in events(tmp_path, Begin)] == [2, 2]
    slurm.wait(submitted(tmp_path)["evaluate"], "COMPLETED")
    assert_equal(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT)
def test_scancel_leaves_a_checkpoint_and_requeues_nothing(slurm: Cluster, tmp_path: Path) -> None:
    number, before = begin(tmp_path, slurm, *NEVER)
    slurm.run("scancel", number)
    slurm.wait(number, "CANCELLED")
    assert_none_left(tmp_path, before)
    (saved,) = events(tmp_path, Checkpoint)
    outcome = read_json(job(tmp_path, "train") / "outcome.json")
    assert (outcome["status"], outcome["step"]) == ("preempted", saved.step)
    assert list((job(tmp_path, "train") / "checkpoints").glob(f"*{saved['step']}.pt"))
    assert not list((job(tmp_path, "train") / "stacks").glob("attempt-1-*")), "a rank did not end by itself"
    assert "Restarts=0" in slurm.run("scontrol", "show", "job", number)
    slurm.wait(submitted(tmp_path)["evaluate"], "FAILED")  # it finds nothing to evaluate


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
@pytest.mark.parametrize("who", ["rank", "torchrun"])
def test_a_killed_process_of_the_second_node_ends_both(
    slurm: Cluster, tmp_path: Path, undisturbed: Path, who: str
) -> None:
    number, before = begin(tmp_path, slurm, *LONG)
    (second,) = (one for one in before if one.place == 1)
    os.kill(second.pid if who == "rank" else second.agent, signal.SIGKILL)
    begun = time.monotonic()
    assert slurm.wait(number, "FAILED", "COMPLETED", "PENDING") == "FAILED"
    assert time.monotonic() - begun < ENDS
    assert_none_left(tmp_path, before)
    outcome = read_json(job(tmp_path, "train") / "outcome.json")
    assert outcome["status"] == "failed"
    assert outcome["reason"].startswith("another rank ended first")
    if who == "rank":
        assert "1:   exitcode  : -9" in torchrun_log(tmp_path)
    saved = max(event.step for event in events(tmp_path, Checkpoint))
    again = harness(tmp_path, slurm, *RUN, *LONG, *NODES)
    assert again.returncode == 0, again.stderr
    assert [event.step for event in events(tmp_path, Begin)] == [0, saved]
    assert_equal(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
def test_a_lost_node_requeues_the_job_which_waits_for_another(
    slurm: Cluster, tmp_path: Path, undisturbed: Path
) -> None:
    number, before = begin(tmp_path, slurm, *LONG)
    (second,) = (one for one in before if one.place == 1)
    dead = [second.pid, second.agent, second.step_daemon, slurm.daemons[second.node].pid]
    for pid in dead:  # a node without power answers nothing and closes no connection
        os.kill(pid, signal.SIGSTOP)
    try:
        slurm.run("scontrol", "update", f"nodename={second.node}", "state=down", "reason=lost")  # by SlurmdTimeout
        assert slurm.wait(number, "PENDING", "FAILED", "COMPLETED", "NODE_FAIL") == "PENDING"
        assert "Restarts=1" in slurm.run("scontrol", "show", "job", number)
        assert slurm.state(submitted(tmp_path)["evaluate"]) == "PENDING Dependency"
        assert [one.rank for one in ranks(tmp_path)] == [second.rank], "the first node's goes on"
    finally:
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
    slurm.start_node(second.node)  # another node, or this one again
    slurm.wait(submitted(tmp_path)["evaluate"], "COMPLETED")
    first, later = (event.step for event in events(tmp_path, Begin))
    assert (first, later) == (0, 10 * (int(str(later)) // 10))
    assert int(str(later)) > 0, "it went on from its last checkpoint"
    assert_equal(tmp_path, undisturbed)
