"""Intervals of an mIoU or a gain over seeds and videos, and what may be said of the paper's gains from them.

Shapes: S seeds, U units (videos, or the recordings they were cut from), K classes. Pure: no files, no frame.

Seeds are crossed with units: every seed's model sees the same videos. The variance of the mean over both is

    V = s²/S + u²/U + i²/(S U)    s² between seeds, u² between units, i² of their interaction

as of figures of merit over readers and cases (Dorfman, Berbaum and Metz 1992; Hillis 2007). mIoU is no mean over units,
so a unit's share of it is the jackknife's. The mean squares that one can observe are

    A = s²/S + i²/(S U)           the seeds' variance over S, from their mIoU or gain over all units
    B = u²/U + i²/(S U)           the jackknife variance of the mean over seeds
    C = i²/(S U)                  the jackknife's residual, neither the seed's nor the unit's

and V = A + max(B - C, 0). A has S - 1 degrees of freedom; B has U - 1, fewer where few units have most of it; C has
(S - 1) (U - 1). The factor of the standard error lies between Satterthwaite's quantile for A + B - C, which covers too
little at S = 3, and Cochran and Cox's, which covers too much.
docs/STATISTICS.md shows by simulation how often the intervals cover what they should.

What to know: an IoU over few units is biased, so where many classes stand in few units the mIoU itself lies aside of
that of many videos; in a gain most of that cancels.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.results.paper import count
from harness.results.units import Sample, Units, jackknife

LEVEL = 0.95
WEIGHT = 0.75  # of Cochran and Cox's quantile
FEWEST = 20  # units; fewer are no sample of anything
SEEDS = 3  # below, an interval over seeds is too wide to be of use

MARGIN = 0.3  # points of mIoU below which a difference is none, unless report.margin says otherwise

REPRODUCED = "reproduced"
SAME_SIGN = "same sign"
EQUAL = "no difference of {margin:g} or more"
UNDECIDED = "undecided"
CONTRADICTED = "contradicted"
NOT_COMPARABLE = "not comparable"
BETTER, WORSE = "better", "worse"  # of a gain that nobody claims
ONE_PAIR = "this pair of checkpoints only"

SEEDS_AND_VIDEOS = "seeds and videos"
ONE_CHECKPOINT = "videos, these checkpoints"
CHECKPOINT_PAIR = "videos, this pair of checkpoints"
THESE_VIDEOS = "seeds, these videos"
OVER_SEEDS = (SEEDS_AND_VIDEOS, THESE_VIDEOS)  # intervals that speak of new trainings
MEANINGS = {  # of the verdicts on a gain that the paper claims
    REPRODUCED: "the interval excludes 0 on the paper's side and contains the paper's gain",
    SAME_SIGN: "the interval excludes 0 on the paper's side",
    EQUAL: "the interval contains 0 and stays between −{margin:g} and +{margin:g} points (report.margin)",
    UNDECIDED: "the interval contains 0 and extends further",
    CONTRADICTED: "the interval excludes 0 on the other side",
    NOT_COMPARABLE: "our data, backbone, schedule or BN group differs from the paper's",
    ONE_PAIR: "a gain between trainings with one seed",
}
SCOPES = {  # what intervals apply to
    SEEDS_AND_VIDEOS: "new trainings and new videos",
    ONE_CHECKPOINT: "new videos, but these trainings only",
    CHECKPOINT_PAIR: "new videos, but this pair of trainings only",
    THESE_VIDEOS: f"new trainings, but these videos only (fewer than {FEWEST} videos or recordings, at least {SEEDS} "
    "seeds), without a verdict on the paper's claim",
}

Floats = NDArray[np.float64]
Parts = Sequence[tuple[float, float]]  # variances of independent sources, with their degrees of freedom


class Interval(NamedTuple):
    """A confidence interval with its parts; without one, why (no reason where there is no number to put one around)."""

    low: float | None = None
    high: float | None = None
    reason: str | None = None
    of: str | None = None  # what it speaks of: SEEDS_AND_VIDEOS, ONE_CHECKPOINT, CHECKPOINT_PAIR or THESE_VIDEOS
    sd_seeds: float | None = None  # standard deviation between seeds
    sd_units: float | None = None  # standard error from the choice of videos, common to all seeds
    df: float | None = None  # of the Student's t whose quantile the interval is wide

    @property
    def p(self) -> float | None:
        """Two-sided p-value of 0, below 1 - LEVEL exactly where the interval excludes 0; None without an interval."""
        if self.low is None or self.high is None or self.df is None:
            return None
        mean, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        if half == 0:
            return 1.0 if mean == 0 else 0.0
        from scipy.special import stdtr, stdtrit  # where it is used: a tenth of a second, scipy.stats ten times as long

        return float(2 * stdtr(self.df, -abs(mean) / half * stdtrit(self.df, (1 + LEVEL) / 2)))

    @property
    def percent(self) -> "Interval":
        """The same in percent, where it is of shares."""
        numbers = ("low", "high", "sd_seeds", "sd_units")
        return self._replace(**{key: 100 * value for key in numbers if (value := getattr(self, key)) is not None})


class Verdict(NamedTuple):
    """One of MEANINGS, or None where nothing may be said; and why it is no more than that."""

    word: str | None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class UnitSums(Units):
    """All that mIoU needs of one evaluation, by unit: 3 K numbers each instead of K²."""

    names: tuple[str, ...]  # U units, sorted
    sums: Floats  # (U, 3, K): hits, truth, prediction, in pixels; whole numbers below 2**53, so sums are exact
    videos: int
    recordings: bool  # whether a unit is more than the video itself

    @cached_property
    def miou(self) -> float:
        """Over all units, 0..1; nan without ground truth."""
        return float(miou(self.sums.sum(axis=0)))

    @property
    def value(self) -> float:
        """Return mIoU."""
        return self.miou

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (U, 3, K)."""
        return self.sums.shape

    @cached_property
    def shares(self) -> Floats:
        """Return what each unit moves mIoU by, times U, by the jackknife; their mean is 0.  # (U,)"""
        return jackknife(miou(self.sums.sum(axis=0) - self.sums))


def unit_sums(videos: Mapping[str, NDArray[np.int64]], unit_of: Mapping[str, str] | None = None) -> UnitSums:
    """Sum confusion matrices by video (K, K; rows are truth) by unit; a video is its own unit without `unit_of`.

    Raise ValueError without videos, for matrices of different shapes, and for a video that `unit_of` lacks.
    """
    unit_of = {video: video for video in videos} if unit_of is None else unit_of
    unassigned = sorted(set(videos) - set(unit_of))
    if unassigned or not videos:
        raise ValueError(f"video {unassigned[0]} has no unit" if unassigned else "no videos")
    names = sorted({unit_of[video] for video in videos})
    classes = len(next(iter(videos.values())))
    sums = np.zeros((len(names), 3, classes))
    row_of = {name: index for index, name in enumerate(names)}
    for video, confusion in videos.items():
        if confusion.shape != (classes, classes):
            raise ValueError(f"video {video}: a matrix of {confusion.shape}, not of {(classes, classes)}")
        sums[row_of[unit_of[video]]] += (np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    return UnitSums(tuple(names), sums, len(videos), any(unit_of[video] != video for video in videos))


def miou(sums: Floats) -> Floats:
    """Return the official mIoU, classes without ground truth left out; nan without any.  # (..., 3, K) -> (...,)"""
    hit, truth, predicted = np.moveaxis(sums, -2, 0)  # (..., K)
    there = truth > 0
    iou = np.divide(hit, truth + predicted - hit, out=np.zeros_like(hit), where=there)
    classes = there.sum(axis=-1)
    mean: Floats = np.divide(iou.sum(axis=-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)
    return mean


def class_iou(evaluations: Sequence[UnitSums]) -> Floats | None:
    """Return IoU in percent by class, the mean over evaluations; nan for a class without ground truth.  # (K,)"""
    scores = []
    for each in evaluations:
        hit, truth, predicted = each.sums.sum(axis=0)  # (K,) each
        nothing = np.full_like(hit, np.nan)
        scores.append(100 * np.divide(hit, truth + predicted - hit, out=nothing, where=truth > 0))
    return np.asarray(np.mean(scores, axis=0)) if scores else None


def interval(
    cells: Sequence[Sample | None], baseline: Sequence[Sample | None] = (), same_checkpoints: bool = False
) -> Interval:
    """Return the LEVEL interval of the mean number (0..1) over `cells`, one a seed, less `baseline`'s, paired by seed.

    The number of UnitSums is mIoU. None stands for an evaluation whose matrices are not at hand.
    `same_checkpoints`: both evaluate the same trainings.
    """
    every = [each for each in (*cells, *baseline) if each is not None]
    if not cells:
        return Interval()
    if len(every) < len(cells) + len(baseline):
        return Interval(reason="confusion matrices per video are not available")
    first = every[0]
    if any(each.names != first.names or each.shape != first.shape for each in every):
        return Interval(reason="rows differ in videos or classes")
    ours, theirs = every[: len(cells)], every[len(cells) :]
    values = np.array([each.value for each in ours])  # (S,)
    if np.isnan(values).any():
        return Interval(reason="no pixel has a label")
    if theirs:
        values = values - [each.value for each in theirs]
    if len(first.names) < FEWEST:
        if len(cells) < SEEDS:
            return Interval(
                reason=f"{first.described}: fewer than {FEWEST} videos (or recordings) and fewer than {SEEDS} seeds"
            )
        return seed_interval(values.tolist())
    shares = np.array([each.shares for each in ours])  # (S, U)
    if theirs:
        shares = shares - [each.shares for each in theirs]
    if np.isnan(shares).any():
        return Interval(reason="all labels are in one video")
    seeds, units = shares.shape
    mean = shares.mean(axis=0)
    over_units = float(mean.var(ddof=1)) / units  # B
    df = tail_df(mean)
    if seeds == 1:
        of = ONE_CHECKPOINT if same_checkpoints or not theirs else CHECKPOINT_PAIR
        return around(float(values[0]), [], [(over_units, df)], of)
    between = float(values.var(ddof=1)) / seeds  # A
    rest = (seeds - 1) * (units - 1)
    residual = float(np.square(shares - mean).sum()) / (rest * seeds * units)  # C
    spread = between**2 / (seeds - 1) + over_units**2 / df + residual**2 / rest
    parts = [(between, seeds - 1.0)], [(max(over_units - residual, 0.0), df)]
    return around(float(values.mean()), *parts, SEEDS_AND_VIDEOS, spread)


def tail_df(shares: Floats) -> float:
    """Return the degrees of freedom of the variance of `shares`: fewer than U - 1 where a few units have most of it.

    That of the chi-square with the same variance: of s² it is σ⁴ (2 / (U - 1) + κ / U), κ the excess kurtosis.
    """
    units = len(shares)
    excess = excess_kurtosis(shares) if shares.std() > 1e-12 else 0.0
    return 2 / (2 / (units - 1) + max(excess, 0.0) / units)


def excess_kurtosis(values: Floats) -> float:
    """Return the unbiased sample excess kurtosis G2 of more than three values (scipy.stats.kurtosis, bias=False)."""
    n = len(values)
    squares = np.square(values - values.mean())
    ratio = np.square(squares).mean() / squares.mean() ** 2  # m4 / m2²
    return float(((n**2 - 1) * ratio - 3 * (n - 1) ** 2) / ((n - 2) * (n - 3)))


def seed_interval(values: Sequence[float]) -> Interval:
    """Return the interval of the mean over new seeds on these videos, from one number (or paired difference) a seed."""
    if len(values) < SEEDS:
        return Interval(reason=f"{count(len(values), 'seed')}: fewer than {SEEDS}")
    variance = float(np.var(values, ddof=1)) / len(values)
    return around(float(np.mean(values)), [(variance, len(values) - 1.0)], [], THESE_VIDEOS)


def around(mean: float, of_seeds: Parts, of_units: Parts, of: str, spread: float | None = None) -> Interval:
    """Return the interval around a mean, from its variance due to seeds and due to units; `spread` as in `quantile`."""
    parts = [*of_seeds, *of_units]
    factor, df = quantile(parts, (1 + LEVEL) / 2, spread)
    half = factor * sum(variance for variance, _ in parts) ** 0.5
    sd_seeds = (of_seeds[0][0] * (of_seeds[0][1] + 1)) ** 0.5 if of_seeds else None
    sd_units = of_units[0][0] ** 0.5 if of_units else None
    return Interval(mean - half, mean + half, None, of, sd_seeds, sd_units, df)


def quantile(parts: Parts, share: float, spread: float | None = None) -> tuple[float, float]:
    """Return the factor of a standard error whose square is the sum of `parts`, and the df of its Student's t.

    WEIGHT of Cochran and Cox's, Student's quantiles weighted by variance; the rest of Satterthwaite's. `spread` is half
    the variance of the sum, where it is not that of its parts: the sum of variance²/df over all that it is made from.
    """
    from scipy.special import stdtrit

    variances, dfs = np.array(parts, dtype=float).T
    total = variances.sum()
    weights = variances / total if total else np.full(len(parts), 1 / len(parts))
    spread = float(np.sum(variances**2 / dfs)) if spread is None else spread
    satterthwaite = max(total**2 / spread, dfs.min()) if spread and total else dfs.min()
    wide = float(weights @ stdtrit(dfs, share))
    factor = WEIGHT * wide + (1 - WEIGHT) * float(stdtrit(satterthwaite, share))
    low, high = dfs.min() / 2, 2 * max(dfs.max(), satterthwaite)
    return factor, root(lambda df: factor - stdtrit(df, share), float(low), float(high))


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where an increasing function is 0 between `low` and `high`, to the last bit, by bisection."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high


def verdict(theirs: float, ours: Interval, reasons: Sequence[str], margin: float = MARGIN) -> Verdict:
    """Return what our interval of a gain says of the paper's gain, in points (see MEANINGS). The interval is closed.

    `reasons`: why our setting is not the paper's (`paper.not_the_papers`).
    Raise ValueError where the paper's gain is 0, which has no side.
    """
    if theirs == 0:
        raise ValueError("a gain of 0 has no side")
    if ours.low is None or ours.high is None:
        return Verdict(None, ours.reason)
    if reasons:
        return Verdict(NOT_COMPARABLE, "; ".join(reasons))
    if ours.of == CHECKPOINT_PAIR:
        return Verdict(ONE_PAIR, "one seed")
    if ours.of == THESE_VIDEOS:
        return Verdict(None, f"fewer than {FEWEST} videos (or recordings): the interval covers these videos only")
    if ours.low <= 0 <= ours.high:
        return Verdict(EQUAL.format(margin=margin) if -margin < ours.low and ours.high < margin else UNDECIDED)
    if (ours.low > 0) != (theirs > 0):
        return Verdict(CONTRADICTED)
    return Verdict(REPRODUCED if ours.low <= theirs <= ours.high else SAME_SIGN)


def rule(
    margin: float = MARGIN,
    verdicts: Collection[str | None] | None = None,
    scopes: Collection[str | None] = tuple(SCOPES),
) -> str:
    """Return how verdicts are reached and what intervals apply to, in words: all of them, or those that occur."""
    meanings = {word.format(margin=margin): text.format(margin=margin) for word, text in MEANINGS.items()}
    words = [f"{word}: {text}" for word, text in meanings.items() if verdicts is None or word in verdicts]
    first = (
        [f"Verdicts on a gain that the paper claims, by our {LEVEL:.0%} interval: {'; '.join(words)}."] if words else []
    )
    return " ".join(first + [f"“{of}”: applies to {text}." for of, text in SCOPES.items() if of in scopes])


def difference(ours: Interval, margin: float = MARGIN, better: str = "higher") -> Verdict:
    """Return what an interval of a gain, in points, says of it without a claim: BETTER, WORSE, EQUAL or UNDECIDED."""
    if ours.low is None or ours.high is None:
        return Verdict(None, ours.reason)
    if ours.of == CHECKPOINT_PAIR:
        return Verdict(ONE_PAIR, "one seed")
    if ours.low <= 0 <= ours.high:
        return Verdict(EQUAL.format(margin=margin) if -margin < ours.low and ours.high < margin else UNDECIDED)
    return Verdict(BETTER if (ours.low > 0) == (better == "higher") else WORSE)


def holm(values: Sequence[float]) -> list[bool]:
    """Return which of several p-values are below 1 - LEVEL with all of them read together (Holm 1979)."""
    rejections = [False] * len(values)
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        if values[index] * (len(values) - rank) >= 1 - LEVEL:
            break
        rejections[index] = True
    return rejections


def lead(spread: float | None, seeds: int, tried: int, each: int = 1, differences: bool = False) -> float | None:
    """Return the lead over the default that the best of `tried` equal settings keeps under in LEVEL of cases.

    `spread`: standard deviation of the default over its `seeds`, from which alone the noise is known; None with one.
    With `differences` it is that of a setting's differences to the default, paired by seed: for a single setting of
    `seeds` trainings the answer is half the width of `seed_interval`.
    P(lead <= c spread) is the mean over the spread (a chi) and the default's mean of P(one setting stays under)^tried.
    """
    if spread is None or seeds < 2 or tried < 1:
        return None
    from scipy.special import gammaincinv, ndtr, ndtri

    grid = (np.arange(400) + 0.5) / 400
    freedom = (seeds - 1) / 2
    scale = np.sqrt(gammaincinv(freedom, grid) / freedom)[:, None]  # a chi: of the spread, over the true one
    default = np.zeros(1) if differences else ndtri(grid) / seeds**0.5

    def under(factor: float) -> float:
        return float(np.mean(ndtr((factor * scale + default) * each**0.5) ** tried))

    return spread * root(lambda factor: under(factor) - (1 + LEVEL) / 2, 0.0, 1e4)
