"""Where the seconds of `make demo` go after its set-up, and how they compare with a bare loop.

    python tests/benchmarks/demo.py [--repeats N] [KEY=VALUE ...]

`harness run ablation_ensemble` runs in an empty directory, as `make demo` runs it. The bare loop is one process that
trains the same three models on the same samples in the same order and counts the same masks of the four rows: without
plan, supervisor, journal, checkpoints, MLflow, tables and page. It ends with the same weights and counts, which is
checked. Both are timed as whole processes, in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.plan.spec import EvaluateSpec, TrainSpec, read

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests" / "support")]

from tabulate import tabulate  # noqa: E402

from harness.launch.launchers._environment import child_environment  # noqa: E402

MOST = 1.1  # times the bare loop
NAMES = {"upernet": "UPerNet", "decoder_a": "Decoder A", "decoder_b": "Decoder B"}


def bare(root: Path, share: tuple[int, int] = (0, 1)) -> None:
    """Train and evaluate what a finished root holds, in this process; raises AssertionError where it comes out else.

    `share`: (i, n) takes the i-th of n shares of the trainings, and the evaluations of these.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from harness.data.stream import TrainStream, loader
    from harness.engine import build, evaluate, runtime, train
    from harness.engine.metrics import confusion
    from harness.engine.multistage import Stages
    from models.contract import VOID

    rank = runtime.this_rank()
    specs = {folder: read(folder) for folder in sorted((root / "jobs").iterdir())}
    trainings = [(folder, job) for folder, job in specs.items() if isinstance(job, TrainSpec)]
    models = {}
    for folder, job in trainings[share[0] :: share[1]]:
        dataset, options = build.dataset(job.data), job.train
        trainer = train.Trainer(job, len(dataset.classes), rank)
        trainer.start(None)
        stream = TrainStream(
            dataset,
            offsets=trainer.offsets,
            crop=options.crop,
            short_side=options.short_side,
            seed=job.seed,
        )
        batches = loader(stream, train.positions(trainer.plan, 0, 0), options.workers, pin_memory=False)
        for iteration in range(trainer.plan.iterations):
            runtime.seed_all(job.seed, iteration, 0)
            micro = [next(batches) for _ in range(trainer.plan.accumulation)]
            trainer.step(iteration, micro, sum(int((batch.labels[:, -1] != VOID).sum()) for batch in micro))
        models[folder.name] = trainer.model
        kept = load_file(folder / "weights.safetensors")
        assert all(torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items()), folder
    tasks = [evaluate.task(folder) for folder, job in specs.items() if isinstance(job, EvaluateSpec)]
    tasks = [task for task in tasks if all(member in models for member in task.members)]
    for group in evaluate.same_frames(tasks):
        job = group[0].job
        dataset = build.dataset(job.data)
        classes = len(dataset.classes)
        whose = sorted({task.worker(member) for task in group for member in task.members}, key=lambda who: who.member)
        workers = {who: Stages(models[who.member], who.geometry, who.precision, rank.device) for who in whose}
        for video in dataset.videos(job.split):
            counts = {task.folder: torch.zeros(classes, classes, dtype=torch.int64) for task in group}
            for stages in workers.values():
                stages.start()
            for _, frame in evaluate.read_ahead(dataset, job.split, video):
                image = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float()
                label = torch.from_numpy(frame.label)
                for task, predicted in evaluate.masks(group, workers, image, {}):
                    counts[task.folder] += confusion(label, predicted.mask, classes)
            for task in group:
                assert np.array_equal(np.load(task.file(video))["confusion"], counts[task.folder]), task.file(video)


def span(folder: Path) -> tuple[float, float]:
    """When a job began and when its journal ends; unix seconds."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return next(event["time"] for event in lines if event["event"] == "begin"), lines[-1]["time"]


def parts(root: Path, begun: float, ended: float) -> list[tuple[str, float]]:
    """The seconds of a run, in order: what they were spent on, without an overlap."""
    spans = []
    for folder in (root / "jobs").iterdir():
        job = read(folder)
        what = f"train {NAMES[job.decoder.name]}" if isinstance(job, TrainSpec) else "the four evaluations, in one pass"
        spans.append((*span(folder), what))
    spans.sort()
    found = [("start: plan, MLflow's store, the rank's imports", spans[0][0] - begun)]
    between, at = 0.0, spans[0][0]
    taken: dict[str, float] = {}
    for first, last, what in spans:
        between += max(0.0, first - at)
        taken[what] = taken.get(what, 0.0) + max(0.0, last - max(first, at))
        at = max(at, last)
    return [*found, *taken.items(), ("between jobs", between), ("end: MLflow, table, figures, page", ended - at)]


def once(words: Sequence[str], place: Path) -> tuple[list[tuple[str, float]], float, float]:
    """A run's parts, its seconds, and those of the bare loop after it; `place` is an empty directory."""
    how: dict[str, Any] = {"cwd": place, "env": child_environment(), "check": True, "stdout": subprocess.DEVNULL}
    begun = time.time()
    subprocess.run([sys.executable, "-m", "harness.cli", "run", "ablation_ensemble", *words], **how)
    ended = time.time()
    subprocess.run([sys.executable, __file__, "--bare", str(place / "runs")], **how)
    return parts(place / "runs", begun, ended), ended - begun, time.time() - ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 where the run takes more than MOST times the bare loop."""
    parser = argparse.ArgumentParser(prog="demo.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="the run's words (default: none, the demo)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.bare is not None:
        index, _, shares = options.share.partition("/")
        bare(options.bare, (int(index), int(shares)))
        return 0
    found = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as place:
            found.append(once(options.words, Path(place)))
    run, alone = (statistics.median(one[place] for one in found) for place in (1, 2))
    taken = {name: statistics.median(dict(one)[name] for one, _, _ in found) for name, _ in found[0][0]}
    rows = [(name, seconds, 100 * seconds / run) for name, seconds in taken.items()]
    print(tabulate(rows, ["part of `harness run`", "seconds", "%"], floatfmt=".1f"))
    print(f"\nthe run: {run:.1f} s; the bare loop: {alone:.1f} s; {run / alone:.2f} times it (at most {MOST} wanted)")
    print(f"medians of {options.repeats}; load {os.getloadavg()[0]:.1f}")
    return int(run / alone > MOST)


if __name__ == "__main__":
    sys.exit(main())
