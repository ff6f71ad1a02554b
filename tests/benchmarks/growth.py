"""How cost grows: an evaluation with its frames, classes, stages, members and scales; commands with a full store.

    python tests/benchmarks/growth.py [--out docs/performance] [--only evaluation|store]

Writes growth.csv (series, x, seconds, megabytes), growth_evaluation.png and growth_store.png. An evaluation is measured
in a process of its own, with untrained members at a tiny size; its seconds leave out the start and its peak memory has
it in. `plan`, `status` and `report` are whole commands on a root and a store that hold N runs and N / 100 plans.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.common.progress import SILENT
from harness.config.compose import DataSpec
from harness.config.sections import EvaluateConfig
from harness.config.settings import RunOptions
from harness.plan.spec import to_json

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests" / "support")]

import pandas as pd  # noqa: E402

from harness.launch.launchers._environment import child_environment  # noqa: E402

EVALUATION: dict[str, Sequence[Any]] = {
    "frames": (20, 40, 80, 160),
    "classes": (4, 16, 64, 124),
    "stages": (0, 1, 2, 3),
    "members": (1, 2, 3),
    "scales": (1, 2, 3, 5),
}
SCALES = (1.0, 0.75, 1.25, 1.5, 1.75)
RUNS = (10, 100, 1000, 10_000)
PLANS = 100  # saved in the output directory with the most runs; with fewer, in proportion
MOST = 2.0  # times as long with the most runs as with the fewest
COMMANDS = {
    "plan": ("plan", "ablation_ensemble", "--json"),
    "status": ("status", "--json"),
    "report": ("report", "ablation_ensemble", "--json"),
}
DECODERS = ("decoder_a", "decoder_b", "upernet")


def one_evaluation(
    frames: int = 20, classes: int = 16, stages: int = 0, members: int = 1, scales: int = 1
) -> dict[str, float]:
    """Seconds and peak megabytes of evaluating one synthetic video of 64 × 96 pixels; in this process."""
    import tiny_jobs

    from harness.engine import worker
    from harness.engine.runtime import Stop

    size = {"classes": classes, "frames": frames, "height": 64, "width": 96, "val_videos": 1}
    data = DataSpec("synthetic", {**tiny_jobs.DATA, **size})
    window = EvaluateConfig(window=64)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        names = [
            tiny_jobs.untrained(root, f"{index:016}", decoder, data=data, crop=64, short_side=64).name
            for index, decoder in enumerate(DECODERS[:members])
        ]
        made: list[Path] = []
        for stage in range(stages + 1):
            prior = made[-1].name if made else None
            how = {"scales": SCALES[:scales], "prior": prior, "data": data, "evaluate": window}
            made.append(tiny_jobs.evaluation(root, f"{stage:015}e", names, stage, **how))
        begun = time.perf_counter()
        assert worker.launch(made, tiny_jobs.ALONE, Stop()) == 0
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def evaluations(series: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """One point after the other, each in a fresh process."""
    for name, values in series.items():
        for value in values:
            print(f"evaluation, {name} = {value} ...", file=sys.stderr, flush=True)
            words = [sys.executable, __file__, "--point", json.dumps({name: value})]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=child_environment())
            yield {"series": name, "x": value, **json.loads(done.stdout.splitlines()[-1])}


def fill(folder: Path, runs: int) -> None:
    """A root and a store with a finished Table 1 and, beside it, as many other finished runs, and plans."""
    import finished_root

    from harness.common.atomic_files import write_json
    from harness.config import compose
    from harness.launch import runner
    from harness.plan import plan, saved_plans
    from harness.tracking.client import FINGERPRINT, PLAN, Tracking

    os.chdir(folder)
    made = finished_root.make(folder / "runs")
    tracking = Tracking()
    tracking.connect()
    runner.run(made, RunOptions(command=("harness",)), SILENT)
    for index in range(PLANS * runs // RUNS[-1]):
        words = [*finished_root.OVERRIDES, f"train.epochs={1000 + index}"]
        saved_plans.keep(plan.make(["ablation_ensemble"], compose.compose("demo", words), made.root), ("harness",))
    (real,) = made.experiments
    place = tracking.find(real.name, [real.digest], tag=PLAN)[real.digest].experiment_id
    parent = tracking.parent(place, "another plan", "another")
    (job, *_) = (job for job in made.jobs if job.inputs)
    content = to_json(job.spec())
    content["identity"]["split"] = "another"  # no job that is planned is like it
    for index in range(runs):
        name = f"{index:016x}"
        key = {"harness.role": "cell", FINGERPRINT: name}
        run = tracking.child(place, parent, f"other/{index}", key, {"harness.cell": "other"}, {"seed": str(index)})
        tracking.log(run, [("final/miou", 50.0, 0, 1_800_000_000_000 + index)])
        tracking.finish(run, "FINISHED")
        other = folder / "runs" / "jobs" / name
        other.mkdir()
        write_json(other / "job.yaml", content)
        for file in ("outcome.json", "how.json"):
            shutil.copyfile(made.directory(job) / file, other / file)
        for file in other.iterdir():
            os.utime(file, 2 * (time.time() - 3600 * index,))  # one an hour: so many are not of one day


def stores(sizes: Sequence[int], repeats: int = 3) -> Iterator[dict[str, Any]]:
    """CPU seconds of each command, the median of some calls, with so many runs in root and store."""
    import finished_root
    from benchmarks.commands import cpu_seconds

    kept = child_environment()
    for size in sizes:
        print(f"a store of {size} runs ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as place:
            subprocess.run([sys.executable, __file__, "--fill", place, str(size)], check=True, env=kept)
            for name, words in COMMANDS.items():
                more = () if name == "status" else finished_root.OVERRIDES
                command = (Path(place), ("-m", "harness.cli", *words, *more))
                seconds = [cpu_seconds(command) for _ in range(repeats)]
                yield {"series": name, "x": size, "seconds": statistics.median(seconds)}


def draw(frame: pd.DataFrame, folder: Path) -> None:
    """A picture of each kind: the evaluations' seconds and memory, the commands' seconds."""
    from harness.results.figure import Figure, render
    from reports._style import canvas, house

    def evaluation() -> Any:
        with house():
            figure, axes = canvas(11, 4.4, 2, len(EVALUATION), sharey="row", sharex="col")
            for column, name in enumerate(EVALUATION):
                part = frame[frame["series"] == name]
                for row, value in enumerate(("seconds", "megabytes")):
                    axes[row, column].plot(part["x"], part[value], "o-")
                    axes[row, column].set_ylim(0, 1.08 * frame[frame["series"].isin(EVALUATION)][value].max())
                axes[1, column].set_xlabel(name)
            axes[0, 0].set_ylabel("seconds")
            axes[1, 0].set_ylabel("peak memory, MB")
            return figure

    def store() -> Any:
        with house():
            figure, axis = canvas(6, 3)
            for name in COMMANDS:
                part = frame[frame["series"] == name]
                axis.plot(part["x"], part["seconds"], "o-", label=name)
            axis.set_xscale("log")
            axis.set_ylim(bottom=0)
            axis.set_xlabel("runs in the root and the store")
            axis.set_ylabel("seconds of CPU")
            axis.legend()
            return figure

    known = set(frame["series"])
    for stem, names, drawing in (("growth_evaluation", EVALUATION, evaluation), ("growth_store", COMMANDS, store)):
        if known >= set(names):
            (folder / f"{stem}.png").write_bytes(render(Figure(stem, stem, drawing), ("png",))["png"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and draw; returns 1 where a command grows by more than MOST."""
    parser = argparse.ArgumentParser(prog="growth.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "performance")
    parser.add_argument("--only", choices=("evaluation", "store"))
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--fill", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point is not None:
        print(json.dumps(one_evaluation(**options.point)))
        return 0
    if options.fill is not None:
        fill(Path(options.fill[0]), int(options.fill[1]))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    points = [] if options.only == "store" else list(evaluations(EVALUATION))
    points += [] if options.only == "evaluation" else list(stores(RUNS))
    frame = pd.DataFrame(points, columns=["series", "x", "seconds", "megabytes"])
    table = options.out / "growth.csv"
    if options.only and table.exists():  # what is not measured now stays
        before = pd.read_csv(table)
        frame = pd.concat([before[~before["series"].isin(frame["series"])], frame])
    frame.to_csv(table, index=False, float_format="%.3f")
    draw(frame, options.out)
    print(frame.to_string(index=False))
    grown = growth(frame)
    for name, ratio in grown.items():
        print(f"{name}: {ratio:.2f} times as long at {RUNS[-1]} runs as at {RUNS[0]} (at most {MOST:.0f} wanted)")
    return int(any(ratio > MOST for ratio in grown.values()))


def growth(frame: pd.DataFrame) -> dict[str, float]:
    """How much longer each command takes with the most runs than with the fewest."""
    seconds = frame.set_index(["series", "x"])["seconds"]
    return {
        name: float(seconds[name, RUNS[-1]] / seconds[name, RUNS[0]])
        for name in COMMANDS
        if (name, RUNS[-1]) in seconds
    }


if __name__ == "__main__":
    sys.exit(main())
