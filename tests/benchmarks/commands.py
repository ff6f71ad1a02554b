"""Rows of `make bench` for whole commands, against the imports that they cannot do without.

Seconds are a child's own, user and system, which other processes hardly move; forms run in turns, medians are compared.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import finished_root
import numpy as np
from benchmarks.measure import Measure, Row, shown

from harness.config import compose
from harness.launch.launchers._environment import child_environment
from harness.plan import plan

TABLE = ("ablation_ensemble", *finished_root.OVERRIDES, "data.synthetic.val_videos=24", "--root", "runs")
MLFLOW = ("-c", "import mlflow")
Command = tuple[Path, Sequence[str]]  # working directory, arguments of python


def cpu_seconds(command: Command) -> float:
    """User and system seconds of one process and its children. Raise CalledProcessError where it fails."""
    folder, words = command
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=folder, env=child_environment(), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turns(measure: Measure, *commands: Command) -> list[float]:
    """The median of each command."""
    taken: list[list[float]] = [[] for _ in commands]
    for _ in range(measure.repeats):
        for command, times in zip(commands, taken, strict=True):
            times.append(cpu_seconds(command))
    return [statistics.median(times) for times in taken]


def over_mlflow(measure: Measure, name: str, setting: str, command: Command, high: float) -> Row:
    """A command over `python -c "import mlflow"`."""
    ours, floor = in_turns(measure, command, (command[0], MLFLOW))
    return Row(name, setting, shown(ours), f"import mlflow: {shown(floor)}", ours / floor, "times as long", high=high)


def uploaded(folder: Path) -> Path:
    """A working directory with a finished Table 1 that a store was told of."""
    finished_root.make(folder / "runs")
    cpu_seconds((folder, ("-m", "harness", "run", *TABLE)))
    return folder


def report_json(measure: Measure) -> Row:
    """`report --json` of a finished Table 1 from MLflow's store."""
    with tempfile.TemporaryDirectory() as place:
        command = (uploaded(Path(place)), ("-m", "harness", "report", *TABLE, "--json"))
        return over_mlflow(measure, "report --json", "Table 1, from MLflow's SQLite", command, 1.1)


def report_json_from_root(measure: Measure) -> Row:
    """The same without a store."""
    with tempfile.TemporaryDirectory() as place:
        finished_root.make(Path(place) / "runs")
        command = (Path(place), ("-m", "harness", "report", *TABLE, "--json"))
        return over_mlflow(measure, "report --json, no store", "Table 1, from the root", command, 0.5)


def nothing_to_do(measure: Measure) -> Row:
    """`run` of a finished Table 1 that the store was told of: plan, report, page and panels."""
    with tempfile.TemporaryDirectory() as place:
        command = (uploaded(Path(place)), ("-m", "harness", "run", *TABLE))
        return over_mlflow(measure, "run, nothing to do", "Table 1", command, 1.3)


def large_report(measure: Measure, videos: int = 343, classes: int = 124, seeds: int = 5) -> Row:
    """`report --json` from a root as large as VSPW's, over that of a small one."""
    with tempfile.TemporaryDirectory() as place:
        large, small = Path(place) / "large", Path(place) / "small"
        words = large_root(large, videos, classes, seeds)
        finished_root.make(small / "runs")
        begun = time.perf_counter()
        cpu_seconds((large, words))
        wall = time.perf_counter() - begun
        ours, least = in_turns(measure, (large, words), (small, ("-m", "harness", "report", *TABLE, "--json")))
    return Row(
        "report --json, large",
        f"{videos} videos × {classes} classes, {seeds} seeds, from the root",
        f"{shown(ours)} (wall {shown(wall)})",
        f"24 videos × 8 classes, 1 seed: {shown(least)}",
        ours / least,
        "times as long",
        also=("under 5 s of CPU", ours < 5),
    )


def large_root(folder: Path, videos: int, classes: int, seeds: int) -> tuple[str, ...]:
    """A finished Table 1 with random counts under FOLDER/runs; the words that report it."""
    keys = (*finished_root.OVERRIDES, f"data.synthetic.classes={classes}", f"data.synthetic.val_videos={videos}")
    (folder / "runs").mkdir(parents=True)
    made = plan.make(["ablation_ensemble"], compose.compose("demo", list(keys)), folder / "runs", seeds)
    for seed, cell in made.experiments[0].cells:
        for member in cell.job.members:
            finished_root.train(made, member)
        job = made.directory(cell.job)
        (job / "videos").mkdir(parents=True)
        for video in range(videos):
            generator = np.random.default_rng([video, seed, *map(ord, cell.name)])
            counts = np.zeros((classes, classes), np.int64)
            some = generator.choice(classes, min(classes, 12), replace=False)
            counts[np.ix_(some, some)] = generator.integers(0, 50, (len(some), len(some)))
            counts[some, some] += 500
            np.savez(job / "videos" / f"val_{video:04}.npz", confusion=counts, frames=1, void=0)
        finished_root.finish(job, cell.job, 31.0)
    return ("-m", "harness", "report", "ablation_ensemble", *keys, "--seeds", str(seeds), "--root", "runs", "--json")


def rank_start(measure: Measure) -> Row:
    """A rank up to its first job and its end, over the imports of torch and timm, which every model takes."""
    here = Path.cwd()
    ours, floor = in_turns(
        measure, (here, ("-m", "harness.engine.worker", "--help")), (here, ("-c", "import torch, timm"))
    )
    reference = f"import torch, timm: {shown(floor)}"
    return Row(
        "a rank's start", "its imports and its end", shown(ours), reference, ours / floor, "times as long", high=0.7
    )


ROWS: list[Callable[[Measure], Row]] = [report_json, report_json_from_root, nothing_to_do, large_report, rank_start]
