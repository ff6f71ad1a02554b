from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kurtosis, sem
from scipy.stats import t as student

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


def test_shares_are_the_jackknife_of_the_official_miou() -> None:
    videos = some_videos(30, classes=12)
    one = unit_sums(videos)
    assert one.miou == pytest.approx(metrics.miou(np.sum(list(videos.values()), axis=0)), rel=1e-13)
    without = []
    for name in sorted(videos):  # slow and obvious: the official mIoU of all other videos
        without.append(metrics.miou(np.sum([matrix for other, matrix in videos.items() if other != name], axis=0)))
    lacking = np.count_nonzero(one.sums[:, 1].sum(axis=0) - one.sums[:, 1] == 0, axis=1)
    assert lacking.any()  # without some video a class is gone
    np.testing.assert_allclose(one.shares, 29 * (np.mean(without) - without), atol=1e-12)


def test_no_truth_is_no_number() -> None:
    nothing = unit_sums({f"v{index}": np.zeros((3, 3), np.int64) for index in range(20)})
    assert np.isnan(nothing.miou)
    assert interval([nothing]) == Interval(reason="no pixel has a label")
    single = unit_sums({f"v{index:02}": np.eye(3, dtype=np.int64) * (index == 3) for index in range(20)})
    assert interval([single]) == Interval(reason="all labels are in one video")


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
    assert interval([unit_sums(videos)]) == Interval(
        reason="19 videos: fewer than 20 videos (or recordings) and fewer than 3 seeds"
    )
    one = unit_sums(some_videos(4), dict.fromkeys(some_videos(4), "0016E5"))
    assert (
        interval([one]).reason == "4 videos of 1 recording: fewer than 20 videos (or recordings) and fewer than 3 seeds"
    )
    many = some_videos(60)
    paired = unit_sums(many, {video: f"r{index % 19}" for index, video in enumerate(many)})
    assert (
        interval([paired]).reason
        == "60 videos of 19 recordings: fewer than 20 videos (or recordings) and fewer than 3 seeds"
    )
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
    assert interval([here], [other]).reason == "rows differ in videos or classes"
    assert interval([here, unit_sums(some_videos(30, classes=4))]).reason == "rows differ in videos or classes"
    assert interval([here], [None]).reason == "confusion matrices per video are not available"
    assert interval([]) == Interval()


def test_a_cell_over_itself_gains_nothing() -> None:
    here, again = (unit_sums(some_videos(30)) for _ in range(2))
    assert interval([here], [again])[:3] == (0, 0, None)
    assert interval([here] * 3, [again] * 3)[:3] == (0, 0, None)
    assert interval([here], [again]).p == 1


def two_way(seeds: int, units: int, **sd: float) -> tuple[NDArray[np.float64], list[UnitSums]]:
    """One class whose IoU is the mean over units of a sum of effects: the textbook's crossed design.  # (S, U)"""
    rng = np.random.default_rng(3)
    values = 0.5 + rng.normal(0, sd["seed"], (seeds, 1)) + rng.normal(0, sd["unit"], (1, units))
    values = np.round(1e6 * (values + rng.normal(0, sd["both"], (seeds, units))))
    size = np.full((units, 1), 10**6)
    hits = [one[:, None].astype(np.int64) for one in values]
    return values / 1e6, [from_units(one, size, one) for one in hits]


def test_the_parts_are_those_of_the_analysis_of_variance() -> None:
    """IoU of one class that is never wrongly predicted is linear, h / T: every part has a closed form."""
    seeds, units = 4, 25
    values, cells = two_way(seeds, units, seed=0.01, unit=0.05, both=0.02)
    found = interval(cells)
    rows, columns, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    of_seeds = units * np.square(rows - mean).sum() / (seeds - 1)  # mean squares
    of_units = seeds * np.square(columns - mean).sum() / (units - 1)
    rest = np.square(values - rows[:, None] - columns + mean).sum() / ((seeds - 1) * (units - 1))
    assert found.of == "seeds and videos"
    assert found.sd_seeds == pytest.approx(np.sqrt(of_seeds / units), rel=1e-9) == pytest.approx(rows.std(ddof=1))
    assert found.sd_units == pytest.approx(np.sqrt((of_units - rest) / (seeds * units)), rel=1e-6)
    assert found.low is not None
    assert found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx(mean)
    error = np.sqrt((of_seeds + of_units - rest) / (seeds * units))
    assert (found.high - found.low) / 2 == pytest.approx(error * student.ppf(0.975, found.df), rel=1e-6)
    assert 3 < (found.df or 0) < 27


def test_one_seed_has_the_jackknifes_interval_and_says_of_what() -> None:
    values, (one, other) = two_way(2, 40, seed=0.01, unit=0.05, both=0.02)
    alone, pair = interval([one]), interval([one], [other])
    assert (alone.of, pair.of) == ("videos, these checkpoints", "videos, this pair of checkpoints")
    assert interval([one], [other], same_checkpoints=True).of == "videos, these checkpoints"
    assert alone.sd_seeds is pair.sd_seeds is None
    assert alone.sd_units == pytest.approx(values[0].std(ddof=1) / np.sqrt(40), rel=1e-6)  # the mean's standard error
    assert pair.sd_units == pytest.approx((values[0] - values[1]).std(ddof=1) / np.sqrt(40), rel=1e-6)


def test_few_units_leave_students_t_over_the_seeds() -> None:
    values, cells = two_way(3, 4, seed=0.01, unit=0.05, both=0.02)
    found, expected = interval(cells), student.interval(0.95, 2, values.mean(), sem(values.mean(axis=1)))
    assert found[:2] == pytest.approx(expected)
    assert (found.of, found.sd_units) == ("seeds, these videos", None)
    assert found.df == pytest.approx(2)


def test_a_variance_of_few_heavy_units_has_fewer_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    even, heavy = rng.uniform(-1, 1, 60), rng.standard_t(3, 60)
    assert stats.tail_df(even) == pytest.approx(59)  # tails lighter than normal count as normal
    squares = [np.var(rng.laplace(size=60), ddof=1) for _ in range(20_000)]
    by_moments = 2 * np.mean(squares) ** 2 / np.var(squares)
    assert by_moments == pytest.approx(2 / (2 / 59 + 3 / 60), rel=0.1)  # a Laplace's excess kurtosis is 3
    assert stats.tail_df(heavy) < 35
    assert stats.tail_df(np.zeros(60)) == 59


def test_between_one_part_and_two_the_quantile_is_continuous() -> None:
    alone, df = stats.quantile([(1.0, 2.0)], 0.975)
    assert (alone, df) == pytest.approx((student.ppf(0.975, 2), 2))
    assert stats.quantile([(1.0, 2.0), (1e-12, 19.0)], 0.975)[0] == pytest.approx(alone)
    assert stats.quantile([(1e-12, 2.0), (1.0, 19.0)], 0.975)[0] == pytest.approx(student.ppf(0.975, 19))
    factor, df = stats.quantile([(1.0, 2.0), (1.0, 19.0)], 0.975)
    wide = (student.ppf(0.975, 2) + student.ppf(0.975, 19)) / 2  # Cochran and Cox's
    narrow = student.ppf(0.975, 4 / (1 / 2 + 1 / 19))  # Satterthwaite's
    assert factor == pytest.approx(0.75 * wide + 0.25 * narrow)
    assert student.ppf(0.975, df) == pytest.approx(factor)


def test_pairing_shrinks_the_interval_where_two_cells_share_their_noise() -> None:
    generator = np.random.default_rng(0)
    one = population(generator, 60)
    other = improved(one, generator)
    gain, alone = interval([other], [one]), interval([other])
    assert None not in (gain.low, gain.high, alone.low, alone.high)
    assert gain.high - gain.low < 0.2 * (alone.high - alone.low)  # type: ignore[operator]
    assert gain.low > 0  # type: ignore[operator]


def test_p_is_below_five_percent_exactly_where_zero_is_outside() -> None:
    for low, high in ((0.001, 1.0), (-0.001, 1.0), (-2.0, -0.1)):
        found = Interval(low, high, df=3.7)
        assert found.p is not None
        assert (found.p < 0.05) == (not low <= 0 <= high)
    assert Interval(0.0, 2.0, df=5.0).p == pytest.approx(0.05)
    assert Interval(reason="x").p is None


def test_holm_reads_several_together() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == [True, False, False]  # 3 × 0.01, 2 × 0.03 ≥ 0.05
    assert stats.holm([0.01, 0.02, 0.04]) == [True, True, True]
    assert stats.holm([0.03, 0.03]) == [False, False]
    assert stats.holm([0.04]) == [True]
    assert stats.holm([]) == []


@pytest.mark.parametrize(("seeds", "tried", "each"), [(3, 1, 1), (3, 20, 1), (5, 9, 5)])
def test_the_best_of_equal_settings_stays_under_its_lead(seeds: int, tried: int, each: int) -> None:
    rng = np.random.default_rng(0)
    default = rng.normal(size=(20_000, seeds))
    best = rng.normal(0, each**-0.5, (20_000, tried)).max(axis=1)
    bound = [stats.lead(1.0, seeds, tried, each) or 0] * default.std(axis=1, ddof=1)
    assert np.mean(best - default.mean(axis=1) <= bound) == pytest.approx(0.975, abs=0.004)
    assert stats.lead(2.0, seeds, tried, each) == pytest.approx(2 * (stats.lead(1.0, seeds, tried, each) or 0))
    assert stats.lead(None, 1, tried) is None


def test_the_lead_of_a_single_setting_is_students() -> None:
    assert stats.lead(1.0, 3, 1) == pytest.approx(student.ppf(0.975, 2) * np.sqrt(1 + 1 / 3), rel=0.005)


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
        (1.22, 0.0, 0.0, "no difference of 0.3 or more"),
        (1.22, -2.0, -1e-9, "contradicted"),
        (-1.0, -2.0, -0.5, "reproduced"),
        (-1.0, -0.9, -0.5, "same sign"),
        (-1.0, 0.5, 2.0, "contradicted"),
    ],
)
def test_words_and_their_borders(theirs: float, low: float, high: float, word: str) -> None:
    for of in ("seeds and videos", "videos, these checkpoints"):
        assert verdict(theirs, Interval(low, high, of=of), ()) == (word, None)


@pytest.mark.parametrize(
    ("low", "high", "margin", "word"),
    [
        (-0.2, 0.29, 0.3, "no difference of 0.3 or more"),
        (-0.3, 0.2, 0.3, "undecided"),  # closed: a difference of 0.3 is not excluded
        (-0.2, 0.31, 0.3, "undecided"),
        (-0.2, 0.31, 0.5, "no difference of 0.5 or more"),
        (0.1, 0.2, 0.3, "same sign"),  # small, and there
        (-0.2, -0.1, 0.3, "contradicted"),
    ],
)
def test_equal_is_a_word(low: float, high: float, margin: float, word: str) -> None:
    assert verdict(1.22, Interval(low, high, of="seeds and videos"), (), margin).word == word


@pytest.mark.parametrize("bounds", [(0.5, 2.0), (0.5, 1.0), (-1.0, 1.0), (-2.0, -1.0), (-0.1, 0.1)])
def test_one_seed_of_two_trainings_is_one_pair(bounds: tuple[float, float]) -> None:
    found = verdict(1.22, Interval(*bounds, of="videos, this pair of checkpoints"), ())
    assert found == ("this pair of checkpoints only", "one seed")


def test_an_interval_of_these_videos_gives_no_verdict() -> None:
    found = verdict(1.22, Interval(0.5, 2.0, of="seeds, these videos"), ())
    assert found == (None, "fewer than 20 videos (or recordings): the interval covers these videos only")


@pytest.mark.parametrize("of", ["seeds and videos", "videos, this pair of checkpoints", "seeds, these videos"])
def test_another_setting_is_not_comparable_and_says_why(of: str) -> None:
    found = verdict(1.22, Interval(0.5, 2.0, of=of), ("data: camvid", "BN group 4 instead of 16"))
    assert found == ("not comparable", "data: camvid; BN group 4 instead of 16")


@pytest.mark.parametrize("reasons", [(), ("data: synthetic",)])
def test_without_an_interval_there_is_no_word(reasons: tuple[str, ...]) -> None:
    few = Interval(reason="4 videos of 1 recording: fewer than 20 videos (or recordings) and fewer than 3 seeds")
    assert verdict(1.22, few, reasons) == (None, few.reason)


def test_a_gain_of_nothing_has_no_side() -> None:
    with pytest.raises(ValueError, match="no side"):
        verdict(0.0, Interval(0.5, 2.0), ())


def test_the_rule_names_every_word_and_the_margin() -> None:
    rule = stats.rule(0.25)
    assert all(f"{word.format(margin=0.25)}:" in rule for word in stats.MEANINGS)
    assert all(f"“{scope}”: applies to" in rule for scope in stats.SCOPES)
    assert "between −0.25 and +0.25 points" in rule


def test_the_excess_kurtosis_is_scipys() -> None:
    for values in np.random.default_rng(0).standard_t(4, (20, 30)):
        assert stats.excess_kurtosis(values) == pytest.approx(kurtosis(values, bias=False), rel=1e-12)


def test_the_degrees_of_freedom_have_the_factor_as_their_quantile() -> None:
    for parts in ([(1.0, 2.0)], [(1.0, 2.0), (0.5, 300.0)], [(1e-6, 1.0), (2.0, 19.0)], [(0.0, 4.0), (0.0, 40.0)]):
        factor, df = stats.quantile(parts, 0.975)
        assert student.ppf(0.975, df) == pytest.approx(factor, rel=1e-13)


def test_a_root_is_found_to_the_last_bit() -> None:
    assert stats.root(lambda x: x**3 - 2, 0.0, 1e4) == pytest.approx(2 ** (1 / 3), rel=3e-16)
    assert stats.root(lambda x: x - 5, 5.0, 6.0) == pytest.approx(5.0, rel=3e-16)
