"""Whether 95 % intervals cover 95 %, by simulation with a known truth; docs/STATISTICS.md draws the slow form's grid.

Bounds are the promise (coverage of 92 to 98 %, false words in at most 6 %) and three standard errors of the simulation.
"""

import numpy as np
import pytest
from known_truth import World, draw, gains, shares, with_ratio

from harness.results import power
from harness.results.power import Noise
from harness.results.stats import interval

RATIOS = [("class", 0), ("class", 0.3), ("class", 1), ("class", 3), ("video", 0.3), ("video", 1), ("video", 3)]
SPREAD = 0.25  # of a training's luck with a class, which moves the mIoU of 60 classes by 0.55 points


def room(share: float, repeats: int) -> float:
    """Three standard errors of a simulated share."""
    return 3 * float(np.sqrt(share * (1 - share) / repeats))


def assert_coverage(world: World, seeds: tuple[int, ...], repeats: int, seed: int = 0) -> dict[int, float]:
    """Hold a world's intervals against the promise; return their coverage by the number of seeds."""
    simulated = shares(world, seeds, repeats, np.random.default_rng(seed))
    for number, share in simulated.items():
        assert share.covered >= 0.92 - room(0.92, repeats), (number, share)
        if number >= 3:
            assert share.covered <= 0.98 + room(0.98, repeats), (number, share)
        if not world.gain and number >= 3:
            assert share.words <= 0.06 + room(0.06, repeats), (number, share)
    return {number: share.covered for number, share in simulated.items()}


def test_intervals_cover_what_they_say() -> None:
    """Each corner is too small a sample to see an interval that is too wide; all of them together are not."""
    corners, repeats = [("class", 0), ("class", 1), ("class", 3), ("video", 1)], 120
    worlds = [
        with_ratio(World(units=20, classes=12, gain=gain), ratio, kind) for kind, ratio in corners for gain in (0, 0.15)
    ]
    covered = [assert_coverage(world, (2, 3, 10), repeats, seed) for seed, world in enumerate(worlds)]
    for number in (3, 10):
        share = np.mean([world[number] for world in covered])
        assert 0.94 <= share <= 0.97 + room(0.97, len(worlds) * repeats), covered


def assert_equal_methods_are_not_told_apart(seeds: tuple[int, ...], repeats: int) -> None:
    """Two methods that are equal, on a set of VSPW's size, with trainings as noisy as ours."""
    world = World(units=343, classes=60, present=8, method_unit=0.0, class_seed=SPREAD)
    ours, _ = draw(world, 40, np.random.default_rng(1))
    assert 100 * np.std([one.miou for one in ours]) == pytest.approx(0.55, abs=0.1)
    assert_coverage(world, seeds, repeats)


def test_equal_methods_are_not_told_apart_by_their_seeds() -> None:
    assert_equal_methods_are_not_told_apart((3, 5), 80)


@pytest.mark.slow
def test_equal_methods_are_not_told_apart_by_their_seeds_in_thousands_of_tables() -> None:
    assert_equal_methods_are_not_told_apart((2, 3, 5, 10), 2000)


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.0, 0.15])
@pytest.mark.parametrize(("kind", "ratio"), RATIOS)
@pytest.mark.parametrize("units", [20, 60, 343])
def test_intervals_cover_what_they_say_in_every_corner(units: int, kind: str, ratio: float, gain: float) -> None:
    assert_coverage(
        with_ratio(World(units=units, gain=gain), ratio, kind), (2, 3, 5, 10), 3000 if units < 100 else 1000
    )


def test_the_power_is_how_often_a_gain_is_seen() -> None:
    world = with_ratio(World(units=60, classes=12, gain=0.1), 1, "class")
    rng, repeats = np.random.default_rng(0), 300
    many = [gains(*draw(world, 1, rng))[0] for _ in range(repeats)]
    tables = [interval(*draw(world, 5, rng)) for _ in range(repeats)]
    seeds, units = (
        float(np.sqrt(np.mean(np.square(part)))) for part in zip(*(one[4:6] for one in tables), strict=True)
    )
    assert np.std(many) == pytest.approx(np.hypot(seeds, units), rel=0.15)
    seen = np.mean([one.low > 0 for one in tables])
    assert seen == pytest.approx(power.power(float(np.mean(many)), Noise(seeds, units, 60), 5), abs=0.08)
    assert 0.3 < seen < 0.95  # a case that is open
