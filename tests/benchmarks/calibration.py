"""How often the 95 % intervals of a gain are right, by simulation with a known truth: the figure of docs/STATISTICS.md.

    python tests/benchmarks/calibration.py [--repeats N] [--workers N] [--redraw]

Writes docs/statistics/coverage.csv and coverage.png; --redraw draws from the file. Some 15 minutes on two cores at
1000. "before" is the rule that was replaced: percentiles over resampled videos with the trainings held fixed.
"""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from known_truth import World, draw, shares, true_gain, with_ratio  # noqa: E402

from harness.results.stats import UnitSums, miou  # noqa: E402
from reports._style import house  # noqa: E402

FOLDER = PROJECT / "docs" / "statistics"
SEEDS = (2, 3, 5, 10)
UNITS = (20, 60, 343)
CORNERS = (*(("class", ratio) for ratio in (0.0, 0.3, 1.0, 3.0)), *(("video", ratio) for ratio in (0.3, 1.0, 3.0)))
GAINS = (0.0, 0.15)  # logits; 0.15 is some 3 points of mIoU
RESAMPLES = 400
MARKS = (
    *(("now", seeds, mark, f"C{index}") for index, (seeds, mark) in enumerate(zip(SEEDS, "v^os", strict=True))),
    ("before", 3, "x", "#8a8a8a"),
)


@dataclass(frozen=True)
class Row:
    """A world and a number of seeds; shares of the simulated tables."""

    rule: str  # now, before
    units: int
    kind: str  # class, video: what a training is lucky with; vspw: equal methods, trainings vary by 0.55 points
    ratio: float  # noise between seeds to noise from the choice of videos
    gain: float
    seeds: int
    repeats: int
    covered: float
    words: float  # false ones, where the gain is 0


def worlds() -> list[tuple[str, float, World]]:
    """Kind, ratio and world of every corner."""
    grid = [
        (kind, ratio, with_ratio(World(units=units, gain=gain), ratio, kind))
        for units in UNITS
        for kind, ratio in CORNERS
        for gain in GAINS
    ]
    return [*grid, ("vspw", float("nan"), World(units=343, classes=60, present=8, method_unit=0.0, class_seed=0.25))]


def before(ours: Sequence[UnitSums], theirs: Sequence[UnitSums], rng: np.random.Generator) -> tuple[float, float]:
    """The percentile interval of the mean gain over resampled videos."""
    units = len(ours[0].names)
    drawn = rng.multinomial(units, np.full(units, 1 / units), RESAMPLES).astype(float)  # (R, U)

    def resampled(one: UnitSums) -> np.ndarray:
        return miou((drawn @ one.sums.reshape(units, -1)).reshape(RESAMPLES, *one.sums.shape[1:]))

    gain = np.mean([resampled(a) - resampled(b) for a, b in zip(ours, theirs, strict=True)], axis=0)
    low, high = np.quantile(gain, (0.025, 0.975))
    return float(low), float(high)


def simulate(job: tuple[int, str, float, World, int]) -> list[Row]:
    """The rows of one world."""
    number, kind, ratio, world, repeats = job
    found = shares(world, SEEDS, repeats, np.random.default_rng(number))
    rows = [
        Row("now", world.units, kind, ratio, world.gain, seeds, repeats, one.covered, one.words)
        for seeds, one in found.items()
    ]
    rng, fewer, truth = np.random.default_rng(number), max(1, repeats // 4), true_gain(world)
    ends = [before(*draw(world, 3, rng), rng) for _ in range(fewer)]
    covered = float(np.mean([low <= truth <= high for low, high in ends]))
    words = float(np.mean([not low <= 0 <= high for low, high in ends]))
    return [*rows, Row("before", world.units, kind, ratio, world.gain, 3, fewer, covered, words)]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Coverage against the ratio, a panel a number of videos."""
    with house():
        figure, axes = plt.subplots(1, len(UNITS), figsize=(9, 3.4), sharey=True, layout="constrained")
        places = {corner: place for place, corner in enumerate(CORNERS)}
        for axis, units in zip(axes, UNITS, strict=True):
            axis.axhspan(92, 98, color="#00724f", alpha=0.1, lw=0)
            axis.axhline(95, color="#00724f", lw=0.8)
            for rule, seeds, mark, colour in MARKS:
                own = [r for r in rows if (r.rule, r.units, r.seeds) == (rule, units, seeds) and r.kind != "vspw"]
                aside = 0.13 * (SEEDS.index(seeds) - 1.5) if rule == "now" else 0
                label = f"{seeds} seeds" if rule == "now" else f"before, {seeds} seeds"
                x = [places[r.kind, r.ratio] + aside + (0.05 if r.gain else 0) for r in own]
                axis.plot(x, [100 * r.covered for r in own], mark, color=colour, ms=4, label=label)
            axis.set_xticks(range(len(CORNERS)), [f"{ratio:g}\n{kind}" for kind, ratio in CORNERS], fontsize=8)
            axis.set_title(f"{units} videos")
            axis.set_ylim(55, 100.5)
        axes[0].set_ylabel("intervals that hold the true gain, %")
        axes[1].set_xlabel("noise between seeds / noise from the choice of videos, by what a training is lucky with")
        axes[0].legend(fontsize=8)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Simulate, write and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--redraw", action="store_true")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "coverage.csv"
    if not options.redraw:
        jobs = [(number, *world, options.repeats) for number, world in enumerate(worlds())]
        with ProcessPoolExecutor(options.workers) as pool, path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row.__annotations__)
            for done, rows in enumerate(pool.map(simulate, jobs), 1):
                writer.writerows([vars(row).values() for row in rows])
                file.flush()
                print(f"{done} of {len(jobs)}", *rows, sep="\n  ", file=sys.stderr, flush=True)
    kinds = Row.__annotations__
    with path.open() as file:
        read = [Row(**{key: kind(row[key]) for key, kind in kinds.items()}) for row in csv.DictReader(file)]
    plot(read, FOLDER / "coverage.png")


if __name__ == "__main__":
    main()
