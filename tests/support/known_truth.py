"""Evaluations of two methods whose true gain is known: seeds crossed with videos, every kind of noise by its own dial.

The recall of class k in video u, of method m trained with seed s, is on the logit scale

    base_k + difficulty_u + difficulty_uk + gain_m + method_unit_mu + class_seed_msk + video_seed_msu

all terms but base and gain normal with mean 0, and the gain of the baseline 0. What is missed is predicted as the next
class. Classes are as rare as words are (Zipf), so that many are in few videos. Without a gain the two methods are equal
by construction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.results import stats
from harness.results.stats import UnitSums

Floats = NDArray[np.float64]
Evaluations = list[UnitSums]  # one a seed


@dataclass(frozen=True)
class World:
    """What a simulation draws from; gain and standard deviations on the logit scale."""

    units: int = 60  # U
    classes: int = 30  # K
    present: float = 6.0  # classes in a video, on average
    gain: float = 0.0
    method_unit: float = 0.2  # how a method suits a video
    class_seed: float = 0.0  # what a training does to a class
    video_seed: float = 0.0  # what a training does to a video

    @property
    def base(self) -> Floats:
        """Logit of a class' recall: the commonest 0.88, the rarest 0.38.  # (K,)"""
        return np.linspace(2.0, -0.5, self.classes)

    @property
    def presence(self) -> Floats:
        """Probability that a class is in a video.  # (K,)"""
        zipf = 1 / np.arange(1, self.classes + 1) ** 0.7
        return np.minimum(1, self.present * zipf / zipf.sum())


def draw(world: World, seeds: int, rng: np.random.Generator) -> tuple[Evaluations, Evaluations]:
    """Evaluations of the method and of its baseline, all over the same videos."""
    units, classes = world.units, world.classes
    present = rng.random((units, classes)) < world.presence
    truth = np.round(present * rng.lognormal(7, 1, (units, classes)))  # (U, K) pixels
    shared = world.base + rng.normal(0, 0.5, (units, 1)) + rng.normal(0, 0.7, (units, classes))
    names = tuple(f"video{index:04}" for index in range(units))

    def evaluations(gain: float) -> Iterator[UnitSums]:
        own = shared + gain + rng.normal(0, world.method_unit, (units, 1))
        for _ in range(seeds):
            noise = rng.normal(0, world.class_seed, classes) + rng.normal(0, world.video_seed, (units, 1))
            hits = np.round(truth / (1 + np.exp(-own - noise)))
            sums = np.stack([hits, truth, hits + np.roll(truth - hits, 1, axis=1)], axis=1)
            yield UnitSums(names, sums, units, False)

    return list(evaluations(world.gain)), list(evaluations(0.0))


def gains(ours: Sequence[UnitSums], theirs: Sequence[UnitSums]) -> Floats:
    """The gain of every seed, 0..1.  # (S,)"""
    return np.array([mine.miou - base.miou for mine, base in zip(ours, theirs, strict=True)])


def true_gain(world: World, videos: int = 4000, trainings: int = 60) -> float:
    """The mean gain over far more seeds and videos than anyone has; 0 exactly for equal methods.

    Measured against the same world without the gain and the same draws, so that their noise cancels.
    """
    with_gain, without = (
        draw(replace(world, units=videos, gain=gain), trainings, np.random.default_rng(0)) for gain in (world.gain, 0.0)
    )
    return float(np.mean(gains(*with_gain) - gains(*without)))


def unit_noise(world: World, draws: int = 400) -> float:
    """Standard deviation of the gain over choices of videos, without any noise between seeds."""
    quiet = replace(world, class_seed=0.0, video_seed=0.0)
    rng = np.random.default_rng(1)
    return float(np.std([gains(*draw(quiet, 1, rng))[0] for _ in range(draws)]))


def seed_noise(world: World, trainings: int = 200) -> float:
    """Standard deviation of the gain between seeds, over as many videos as no choice of them matters."""
    return float(np.std(gains(*draw(replace(world, units=1000), trainings, np.random.default_rng(2)))))


def with_ratio(world: World, ratio: float, kind: str) -> World:
    """The world whose noise between seeds is `ratio` times that from the choice of videos.

    `kind`: "class" (a training is good at some classes, in all videos) or "video" (in some videos, at all classes; the
    ratio is then that of a single video's effects, for a training's luck with single videos averages out).
    """
    if kind == "video":
        return replace(world, video_seed=ratio * world.method_unit)
    unit = seed_noise(replace(world, class_seed=0.1))
    return replace(world, class_seed=0.1 * ratio * unit_noise(world) / unit)


@dataclass(frozen=True)
class Shares:
    """Of many simulated tables with so many seeds."""

    covered: float  # intervals with the true gain inside
    words: float  # verdicts other than undecided or equal, on a claim of the paper


def shares(world: World, seeds: Sequence[int], repeats: int, rng: np.random.Generator) -> dict[int, Shares]:
    """How often the intervals of a world's gain are right, by the number of seeds; the same draws for each number."""
    truth = true_gain(world)
    covered, words = (dict.fromkeys(seeds, 0) for _ in range(2))
    silent = (stats.UNDECIDED, stats.EQUAL.format(margin=stats.MARGIN))
    for _ in range(repeats):
        ours, theirs = draw(world, max(seeds), rng)
        for number in seeds:
            found = stats.interval(ours[:number], theirs[:number])
            assert found.low is not None
            assert found.high is not None
            covered[number] += found.low <= truth <= found.high
            words[number] += stats.verdict(1.22, found.percent, ()).word not in silent
    return {number: Shares(covered[number] / repeats, words[number] / repeats) for number in seeds}
