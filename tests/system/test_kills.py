"""The kill matrix: kill -9 of either rank, torchrun, the supervisor or all, at random moments; then the same command.

Among them a hangup, and a Slurm job that is warned of its time limit, requeued, and begun anew.

Two gloo ranks and a tiny Decoder A. Whatever was killed when, nobody outlives it, and the end is bit-equal to a run
that nobody disturbed: weights (M among them), confusion matrices, and the curve, which MLflow has each step of once.
"""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from simulated_slurm import SimulatedSlurm

from harness.common.atomic_files import read_json
from harness.config import compose
from harness.config.settings import RunOptions
from harness.jobdir.events import Begin, read_events
from harness.jobdir.replay import Replay
from harness.launch import slurm_jobs
from harness.launch.launchers import _sbatch
from harness.plan import plan as planning
from harness.plan import saved_plans

pytestmark = pytest.mark.long

SEED = 20211011
PATIENCE = float(os.environ.get("HARNESS_TEST_PATIENCE", "300"))  # seconds, for machines that do other things too
KILLS = int(os.environ.get("HARNESS_TEST_KILLS", "100"))  # of the slow matrix
WHO = ("rank 0", "requeue", "rank 1", "hangup", "torchrun", "supervisor", "all")
SIGNALS = {"hangup": signal.SIGHUP, "requeue": signal.SIGUSR2}
CODES = {  # how a command may end; a signal may come before Python is up, or after the last job
    "supervisor": (-9,),
    "all": (-9,),
    "hangup": (75, 0, -signal.SIGHUP),
    "requeue": (255, 0),
}
EXPERIMENT = '''"""One cell."""
from harness.plan.cell import Cell, Evaluate, Train

TITLE, REPORT = "One cell", "comparison"


def cells(config):
    return [Cell("decoder_a", "Decoder A", Evaluate((Train(config, "decoder_a"),)))]
'''
SETTING = (
    *("data.synthetic.train_videos=4", "data.synthetic.val_videos=3", "data.synthetic.frames=2"),
    *("train.batch=2", "train.epochs=12", "train.checkpoint_every=3", "train.log_every=1", "train.crop=32"),
    *("train.short_side=32", "train.frames_per_video=1"),  # 24 iterations
)
RUN = ("run", "one.py", "--nproc", "2", *SETTING)


def start(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "one.py").write_text(EXPERIMENT)
    return begin(folder, [sys.executable, "-m", "harness.cli", *RUN, *more])


def begin(folder: Path, command: list[str], **variables: str) -> "subprocess.Popen[bytes]":
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(command, cwd=folder, env=kept | variables, stdout=said, stderr=said)


class SlurmStart:
    """The jobs of a root as one Slurm job, which is begun here as slurmd would."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "one.py").write_text(EXPERIMENT)
        self.folder = folder
        self.slurm = SimulatedSlurm.make(folder / "slurm", _sbatch.user())
        made = planning.make([str(folder / "one.py")], compose.compose("demo", list(SETTING)), folder / "runs")
        made.root.mkdir(exist_ok=True)
        saved_plans.keep(made, ("harness", *RUN))
        options = RunOptions(launcher="slurm", nproc=2, slurm={"nodes": 1}, command=("harness", *RUN))
        executor = slurm_jobs.executor(made, made.jobs, options, ())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", self.slurm.path)
            number = _sbatch.submit(executor, slurm_jobs.task(made, made.jobs, options))
        self.command = [word.replace("%j", number) for word in shlex.split(executor._submitit_command_str)]
        self.slurm.put(number, _sbatch.user(), "harness")
        self.variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": number}
        self.variables |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1"}
        self.variables |= {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "PATH": self.slurm.path}

    def __call__(self) -> "subprocess.Popen[bytes]":
        """Begin the job, again after a requeue."""
        return begin(self.folder, self.command, **self.variables)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def below(pid: int) -> list[int]:
    """Children, their children and so on, nearest first."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text().split()]
        except OSError:
            continue
    return found + [deeper for child in found for deeper in below(child)]


def victims(who: str, supervisor: int) -> list[int]:
    """Whom to kill; what is not there yet is stood for by the supervisor."""
    tree = below(supervisor)
    words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in tree if alive(pid)}
    agents = [pid for pid, word in words.items() if b"_agent" in word]
    ranks = [pid for pid, word in words.items() if b"harness.engine.worker" in word and pid not in agents]
    if who.startswith("rank"):
        own = [pid for pid in ranks if f"RANK={who[-1]}" in environment(pid)]
        return own[:1] or [supervisor]  # without its data workers
    chosen = {"torchrun": agents, "all": [*ranks, *agents, supervisor]}
    return chosen.get(who) or [supervisor]


def environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def steps(folder: Path) -> int:
    """How far the training's journal is."""
    found = [read_events(path)[0] for path in folder.glob("runs/jobs/*/events.jsonl") if kind(path.parent) == "train"]
    return max((getattr(event, "step", None) or 0 for events in found for event in events), default=0)


def kind(job: Path) -> str:
    return str(read_json(job / "job.yaml").get("kind"))


def disturb(folder: Path, who: str, dice: random.Random) -> bool:
    """Start the command, kill somebody at a random moment, and see that nobody is left; False if it ended before.

    A Slurm job that is requeued then goes on to its end.
    """
    job = SlurmStart(folder) if who == "requeue" else None
    process = start(folder) if job is None else job()
    by_time = dice.random() < 0.3  # while things are imported, or when little is done yet; else some steps later
    moment, more, jitter = dice.uniform(0.0, 12.0), dice.randint(1, 10), dice.uniform(0.0, 0.3)
    begun, before = time.monotonic(), steps(folder)
    while process.poll() is None:
        if by_time and time.monotonic() - begun > moment:
            break
        if not by_time and steps(folder) >= min(before + more, 24):
            time.sleep(jitter)
            break
        assert time.monotonic() - begun < PATIENCE, (folder / "said.txt").read_text()
        time.sleep(0.02)
    if process.poll() is not None:
        assert process.returncode == 0, (folder / "said.txt").read_text()
        return False
    tree = [process.pid, *below(process.pid)]
    for pid in victims(who, process.pid):
        os.kill(pid, SIGNALS.get(who, signal.SIGKILL))
    code = process.wait(PATIENCE)
    assert code in CODES.get(who, (0, 1, -9)), (folder / "said.txt").read_text()
    deadline = time.monotonic() + PATIENCE / 5
    while left := [pid for pid in tree if alive(pid)]:
        assert time.monotonic() < deadline, f"{who} was killed, and {left} go on"
        time.sleep(0.05)
    if job is not None:
        assert job.slurm.requeued() == ["1"] * (code != 0)
        assert code == 0 or job().wait(2 * PATIENCE) == 0, (folder / "said.txt").read_text()
    return True


def undisturbed(folder: Path) -> Path:
    assert start(folder).wait(2 * PATIENCE) == 0, (folder / "said.txt").read_text()
    return folder


def assert_equal(one: Path, other: Path) -> None:
    """Weights, confusion matrices and curves of two roots' jobs."""
    names = sorted(path.name for path in one.glob("runs/jobs/*"))
    assert names == sorted(path.name for path in other.glob("runs/jobs/*"))
    for left, right in [(one / "runs/jobs" / name, other / "runs/jobs" / name) for name in names]:
        assert read_json(right / "outcome.json")["status"] == "finished"
        if kind(left) == "train":
            mine, theirs = (load_file(job / "weights.safetensors") for job in (left, right))
            assert all(torch.equal(mine[key], theirs[key]) for key in mine.keys() | theirs.keys())
            assert curve(left) == curve(right)
            assert not list((right / "checkpoints").iterdir())
        else:
            for video in (left / "videos").glob("*.npz"):
                with np.load(video) as mine, np.load(right / "videos" / video.name) as theirs:
                    assert all(np.array_equal(mine[key], theirs[key]) for key in mine)


def assert_told(folder: Path) -> None:
    """MLflow has the curve as the journal has it, and every run has ended well."""
    from mlflow import MlflowClient

    store = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    runs = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert sorted((run.data.tags["harness.role"], run.info.status) for run in runs) == [
        *(("cell", "FINISHED"), ("plan", "FINISHED"), ("train", "FINISHED"))
    ]
    (training,) = [run for run in runs if run.data.tags["harness.role"] == "train"]
    (job,) = [path for path in folder.glob("runs/jobs/*") if kind(path) == "train"]
    points = [
        (point.key, point.value, point.step)
        for key in training.data.metrics
        if not key.startswith("time/")
        for point in store.get_metric_history(training.info.run_id, key)
    ]
    assert sorted(points) == curve(job)


def curve(job: Path) -> list[tuple[str, float, int]]:
    """What MLflow would be told, but for times."""
    points = Replay().hear(read_events(job / "events.jsonl")[0])
    told = sorted((key, value, step) for key, value, step, _ in points if not key.startswith("time/"))
    assert len({(key, step) for key, _, step in told}) == len(told)
    return told


def matrix(root: Path, kills: int, capsys: pytest.CaptureFixture[str], whom: tuple[str, ...] = WHO) -> dict[str, int]:
    """Kill that often, job after job until each is done; how often who was killed."""
    dice = random.Random(SEED)
    reference = undisturbed(root / "undisturbed")
    counts = dict.fromkeys(whom, 0)
    rounds = 0
    while sum(counts.values()) < kills:
        rounds += 1
        folder = root / str(rounds)
        for _ in range(dice.randint(3, 6)):
            who = whom[sum(counts.values()) % len(whom)]
            if sum(counts.values()) == kills or not disturb(folder, who, dice):
                break
            counts[who] += 1
        assert_equal(reference, undisturbed(folder))
        assert_told(folder)
    with capsys.disabled():
        print(f"\n{sum(counts.values())} kills in {rounds} trainings, each bit-equal in the end: {counts}")
    return counts


def test_kills_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(matrix(tmp_path, 2, capsys, ("rank 0", "requeue")).values()) == {1}


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_hundred_kills_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = matrix(tmp_path, KILLS, capsys)
    assert sum(counts.values()) == KILLS
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rank_that_stands_still_is_seen_and_the_job_resumed_once(tmp_path: Path) -> None:
    """SIGSTOP of rank 1: it can write nothing itself, and rank 0 waits for it in a collective."""
    folder = tmp_path / "stopped"
    process = start(folder, "--stall", "0.5")
    deadline = time.monotonic() + PATIENCE
    while steps(folder) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None, (folder / "said.txt").read_text()
        time.sleep(0.02)
    (rank,) = victims("rank 1", process.pid)
    assert rank != process.pid
    os.kill(rank, signal.SIGSTOP)
    assert process.wait(2 * PATIENCE) == 0, (folder / "said.txt").read_text()
    assert not alive(rank)
    assert (folder / "said.txt").read_text().count("no step for 0.5 minutes") == 1
    (job,) = (path for path in folder.glob("runs/jobs/*") if kind(path) == "train")
    begins = [event.step for event in read_events(job / "events.jsonl")[0] if isinstance(event, Begin)]
    assert len(begins) == 2
    assert begins[1] >= 3, "the checkpoint before it stood still"
    stacks = {path.name: path.read_text() for path in (job / "stacks").iterdir()}
    assert stacks.keys() == {"attempt-1-rank-000.txt", "attempt-1-rank-001.txt"}
    assert "harness/engine/train.py" in stacks["attempt-1-rank-000.txt"]
    assert_equal(undisturbed(tmp_path / "undisturbed"), folder)
