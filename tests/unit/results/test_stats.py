import time
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.results import metrics, stats
from harness.results.stats import Interval, UnitSums, interval, unit_sums, verdict

Videos = Mapping[str, NDArray[np.int64]]


def some_videos(number: int, classes: int = 5, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Sparse, so that resamples lack classes."""
    generator = np.random.default_rng(seed)
    matrices = generator.integers(1, 1000, (number, classes, classes))
    matrices *= generator.random((number, classes, 1)) < 3 / number
    return {f"video{index:03}": matrix for index, matrix in enumerate(matrices)}


def from_units(hits: NDArray[np.int64], truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> UnitSums:
    """From (U, K) each."""
    sums = np.stack([hits, truth, predicted], axis=1).astype(np.float64)
    return UnitSums(tuple(f"unit{index:03}" for index in range(len(sums))), sums, len(sums), False)


def population(generator: np.random.Generator, units: int) -> UnitSums:
    """Units of four classes that differ in size and in how well they are predicted; two classes err into another."""
    size = generator.integers(50, 500, (units, 4))
    quality = generator.beta([8, 4, 2, 5], [2, 4, 2, 1], (units, 4))
    hits = generator.binomial(size, quality)
    wrong = size - hits
    return from_units(hits, size, hits + np.roll(wrong, 1, axis=1))


def improved(one: UnitSums, generator: np.random.Generator) -> UnitSums:
    """The same units, a little of what was wrong put right."""
    hits, truth, predicted = one.sums.swapaxes(0, 1).astype(np.int64)
    return from_units(hits + generator.binomial(truth - hits, 0.03), truth, predicted)


def by_loop(videos: Videos, drawn: NDArray[np.float64]) -> list[float]:
    """Slow and obvious: sum a resample's confusion matrices, take the official mIoU."""
    found = []
    for counts in drawn:
        total = sum(int(n) * matrix for n, matrix in zip(counts, videos.values(), strict=True))
        found.append(metrics.miou(np.asarray(total)))
    return found


def test_resamples_equal_the_official_miou_of_their_summed_matrices() -> None:
    videos = some_videos(30)
    drawn = np.concatenate(list(stats.draws(30)))[:200]
    expected = by_loop(videos, drawn)
    lacking = [sum(int(n) * v for n, v in zip(row, videos.values(), strict=True)).sum(axis=1).min() for row in drawn]
    assert 0 < np.count_nonzero(np.array(lacking) == 0) < 200  # some resamples lack a class, some do not
    np.testing.assert_allclose(unit_sums(videos).resampled[:200], expected, rtol=1e-13)


def test_the_draw_is_of_units_with_replacement_and_repeatable() -> None:
    first, again = (np.concatenate(list(stats.draws(25))) for _ in range(2))
    assert first.shape == (stats.RESAMPLES, 25)
    assert (first.sum(axis=1) == 25).all()
    assert np.array_equal(first, again)
    assert first.var() == pytest.approx(1 - 1 / 25, rel=0.02)  # of a multinomial count with mean 1


def test_a_last_chunk_may_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 2500)
    assert [len(drawn) for drawn in stats.draws(3)] == [1000, 1000, 500]


def test_no_truth_is_no_number() -> None:
    nothing = unit_sums({f"v{index}": np.zeros((3, 3), np.int64) for index in range(20)})
    assert np.isnan(nothing.resampled).all()
    assert interval([nothing]) == Interval(reason="no pixel has a label")


def test_videos_of_a_recording_are_one_unit() -> None:
    videos = some_videos(4)
    unit_of = {"video000": "r1", "video001": "r1", "video002": "r2", "video003": "r1"}
    made = unit_sums(videos, unit_of)
    assert made.names == ("r1", "r2")
    whole = videos["video000"] + videos["video001"] + videos["video003"]
    assert np.array_equal(made.sums[0], [np.diagonal(whole), whole.sum(axis=1), whole.sum(axis=0)])
    assert made.described == "4 videos of 2 recordings"


def test_under_twenty_units_there_is_a_reason_instead() -> None:
    videos = some_videos(19)
    assert interval([unit_sums(videos)]) == Interval(reason="19 videos: fewer than 20 units")
    one = unit_sums(some_videos(4), dict.fromkeys(some_videos(4), "0016E5"))
    assert interval([one]).reason == "4 videos of 1 recording: fewer than 20 units"
    many = some_videos(60)
    paired = unit_sums(many, {video: f"r{index % 19}" for index, video in enumerate(many)})
    assert interval([paired]).reason == "60 videos of 19 recordings: fewer than 20 units"
    assert interval([unit_sums(some_videos(20))]).low is not None


@pytest.mark.parametrize(
    ("videos", "unit_of", "match"),
    [
        ({}, None, "no videos"),
        ({"a": np.eye(2, dtype=np.int64)}, {"b": "b"}, "video a has no unit"),
        ({"a": np.eye(2, dtype=np.int64), "b": np.eye(3, dtype=np.int64)}, None, "video b: a matrix of"),
        ({"a": np.ones((2, 3), np.int64)}, None, "video a: a matrix of"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(videos: Videos, unit_of: dict[str, str] | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        unit_sums(videos, unit_of)


def test_no_interval_over_different_or_absent_videos() -> None:
    here, other = unit_sums(some_videos(30)), unit_sums({f"x{k}": v for k, v in some_videos(30).items()})
    assert interval([here], [other]).reason == "not the same videos and classes throughout"
    assert (
        interval([here, unit_sums(some_videos(30, classes=4))]).reason == "not the same videos and classes throughout"
    )
    assert interval([here], [None]).reason == "confusion matrices by video are not at hand"
    assert interval([]) == Interval()


def test_a_cell_over_itself_gains_nothing() -> None:
    here, again = (unit_sums(some_videos(30)) for _ in range(2))
    assert interval([here], [again]) == (0, 0, None)


def test_several_seeds_are_a_mean_under_the_same_resample() -> None:
    generator = np.random.default_rng(0)
    seeds, over = ([population(generator, 30) for _ in range(3)] for _ in range(2))
    values = np.mean([one.resampled for one in seeds], axis=0)
    low, high = np.quantile(values, (0.025, 0.975))
    assert interval(seeds)[:2] == pytest.approx((low, high))
    gains = np.mean([a.resampled - b.resampled for a, b in zip(seeds, over, strict=True)], axis=0)
    assert interval(seeds, over)[:2] == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))


def test_pairing_shrinks_the_interval_where_two_cells_share_their_noise() -> None:
    generator = np.random.default_rng(0)
    one = population(generator, 60)
    other = improved(one, generator)
    low, high, _ = interval([other], [one])
    assert low is not None
    assert high is not None
    unpaired = np.random.default_rng(1).permutation(other.resampled) - one.resampled
    apart_low, apart_high = np.quantile(unpaired, (0.025, 0.975))
    assert high - low < 0.3 * (apart_high - apart_low)
    assert low > 0 > apart_low


@pytest.mark.parametrize(
    ("simulations", "resamples", "room"),
    [(300, 500, 0.05), pytest.param(2000, stats.RESAMPLES, 0.03, marks=pytest.mark.slow)],
)
def test_the_interval_covers_the_true_value_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch, simulations: int, resamples: int, room: float
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", resamples)
    generator = np.random.default_rng(0)
    everything = population(generator, 200_000)
    once = np.ones((1, 200_000))
    true, true_better = (stats.miou(one.sums, once)[0] for one in (everything, improved(everything, generator)))
    covered = np.zeros(2, int)
    for _ in range(simulations):
        one = population(generator, 60)
        better = improved(one, generator)
        for place, (found, value) in enumerate(
            ((interval([one]), true), (interval([better], [one]), true_better - true))
        ):
            assert found.low is not None
            assert found.high is not None
            covered[place] += found.low <= value <= found.high
    share = covered / simulations
    assert (share >= stats.LEVEL - room).all(), share
    assert (share <= stats.LEVEL + min(room, 0.04)).all(), share


def test_it_is_far_faster_than_summing_matrices() -> None:
    videos = some_videos(100, classes=60)
    sums, matrices = unit_sums(videos), np.stack(list(videos.values()))
    drawn = next(stats.draws(100))
    begin = time.perf_counter()
    fast = stats.miou(sums.sums, drawn)
    middle = time.perf_counter()
    slow = [metrics.miou(matrices[np.repeat(np.arange(100), row.astype(int))].sum(axis=0)) for row in drawn[:20]]
    end = time.perf_counter()
    np.testing.assert_allclose(fast[:20], slow, rtol=1e-12)
    assert (end - middle) / 20 > 10 * (middle - begin) / len(drawn)


@pytest.mark.parametrize(
    ("theirs", "low", "high", "word"),
    [
        (1.22, 0.5, 2.0, "reproduced"),
        (1.22, 0.5, 1.22, "reproduced"),
        (1.22, 1.22, 2.0, "reproduced"),
        (1.22, 1e-9, 2.0, "reproduced"),
        (1.22, 0.5, 1.21, "same sign"),
        (1.22, 1.23, 2.0, "same sign"),
        (1.22, 0.0, 2.0, "undecided"),
        (1.22, -1.0, 0.0, "undecided"),
        (1.22, -1.0, 2.0, "undecided"),
        (1.22, -1.0, 1.0, "undecided"),
        (1.22, 0.0, 0.0, "undecided"),
        (1.22, -2.0, -1e-9, "contradicted"),
        (-1.0, -2.0, -0.5, "reproduced"),
        (-1.0, -0.9, -0.5, "same sign"),
        (-1.0, 0.5, 2.0, "contradicted"),
    ],
)
def test_words_and_their_borders(theirs: float, low: float, high: float, word: str) -> None:
    assert verdict(theirs, Interval(low, high), (), seeds=3, same_checkpoints=False) == (word, None)
    assert verdict(theirs, Interval(low, high), (), seeds=1, same_checkpoints=True) == (word, None)


@pytest.mark.parametrize("bounds", [(0.5, 2.0), (0.5, 1.0), (-1.0, 1.0), (-2.0, -1.0)])
def test_between_two_trainings_three_seeds_are_needed(bounds: tuple[float, float]) -> None:
    for seeds, why in ((1, "1 seed, fewer than 3"), (2, "2 seeds, fewer than 3")):
        found = verdict(1.22, Interval(*bounds), (), seeds, same_checkpoints=False)
        assert found == ("this pair of checkpoints only", why)
    assert verdict(1.22, Interval(*bounds), (), 3, same_checkpoints=False).word != "this pair of checkpoints only"


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("same", [True, False])
def test_another_setting_is_not_comparable_and_says_why(seeds: int, same: bool) -> None:
    found = verdict(1.22, Interval(0.5, 2.0), ("data: camvid", "BN group 4 instead of 16"), seeds, same)
    assert found == ("not comparable", "data: camvid; BN group 4 instead of 16")


@pytest.mark.parametrize("reasons", [(), ("data: synthetic",)])
def test_without_an_interval_there_is_no_word(reasons: tuple[str, ...]) -> None:
    few = Interval(reason="4 videos of 1 recording: fewer than 20 units")
    assert verdict(1.22, few, reasons, seeds=3, same_checkpoints=True) == (None, few.reason)


def test_a_gain_of_nothing_has_no_side() -> None:
    with pytest.raises(ValueError, match="no side"):
        verdict(0.0, Interval(0.5, 2.0), (), seeds=3, same_checkpoints=True)


def test_the_rule_names_every_word() -> None:
    assert all(f"{word}:" in stats.RULE for word in stats.WORDS)
