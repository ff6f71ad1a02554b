"""The result of a search, in one sentence that is not fooled by the best of many noisy trials.

A setting is compared with the default seed by seed, over the seeds that both have complete. The best of n equal
settings leads by noise alone: from three shared seeds on, a lead that equal settings stay under in 95 % of cases
(`stats.lead`) is told as "not distinguishable"; before, the noise is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

from harness.plan.study import Setting, Study, Trial
from harness.results import stats
from harness.results.paper import count
from harness.results.table import signed

IMPORTANCE_FROM = 10  # distinct settings that are complete under one seed, for the importance of keys


@dataclass(frozen=True)
class Finding:
    """The best setting against the default; mIoU in percent. None where it is not known yet."""

    best: Trial | None  # the first of the setting that is best
    default: float | None  # mean over its seeds
    spread: float | None  # sample standard deviation over them
    seeds: int
    tried: int  # settings beside the default, pruned ones included
    failed: bool = False  # the default, under each of its seeds
    differences: Mapping[int, float] = field(default_factory=dict)  # seed -> best less default, where both are complete
    means: tuple[float, float] | None = None  # of the best and the default over these seeds

    @property
    def lead(self) -> float | None:
        """Of the best over the default, mean of the differences."""
        return mean(self.differences.values()) if self.differences else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation of the differences."""
        return stdev(self.differences.values()) if len(self.differences) > 1 else None

    @property
    def interval(self) -> stats.Interval:
        """Of the lead, for this setting alone."""
        return stats.seed_interval(list(self.differences.values()))

    @property
    def noise(self) -> float | None:
        """The lead that the best of so many equal settings stays under in 95 % of cases; None with too few seeds."""
        shared = len(self.differences)
        return None if shared < stats.SEEDS else stats.lead(self.sd, shared, self.tried, shared, differences=True)

    @property
    def distinguishable(self) -> bool | None:
        """Whether the lead, or what it is behind by, is more than that; None where it cannot be said."""
        return None if self.lead is None or self.noise is None else abs(self.lead) > self.noise


@dataclass(frozen=True)
class Confirmation:
    """The best setting against the default, both trained anew on all training videos, on val; mIoU in percent."""

    best: str  # its values in words
    trial: int
    seeds: int
    ahead: int  # seeds in which the best leads
    miou: float
    default: float
    gain: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    interval_of: str | None = None  # what the interval speaks of


def find(study: Study, trials: Sequence[Trial]) -> Finding:
    """Return the finding so far: the best of the settings that share most seeds with the default."""
    settings = study.settings(trials)
    default = next((setting for setting in settings if setting.default), None)
    own = {} if default is None else default.by_seed
    others = [setting for setting in settings if not setting.default]
    best = max((setting for setting in others if setting.by_seed), key=lambda s: rank(s, default), default=None)
    differences = {} if best is None else best.differences(default)
    return Finding(
        best=None if best is None else best.trials[0],
        default=mean(own.values()) if own else None,
        spread=stdev(own.values()) if len(own) > 1 else None,
        seeds=len(own),
        tried=sum(any(trial.state in ("complete", "pruned") for trial in setting.trials) for setting in others),
        failed={trial.state for trial in trials if trial.default} == {"failed"},
        differences=differences,
        means=(mean(best.by_seed[seed] for seed in differences), mean(own[seed] for seed in differences))
        if best is not None and differences
        else None,
    )


def rank(setting: Setting, default: Setting | None) -> tuple[int, float]:
    """Return what settings are ordered by: shared seeds, then the mean difference over them, or else the mean mIoU."""
    differences = setting.differences(default)
    return len(differences), mean((differences or setting.by_seed).values())


def over_seeds(seeds: Sequence[int]) -> str:
    """'on seed 0', 'over 3 seeds'."""
    return f"on seed {seeds[0]}" if len(seeds) == 1 else f"over {count(len(seeds), 'seed')}"


def with_interval(differences: Mapping[int, float]) -> str:
    """'+0.43', '+0.43 ± 0.17 [−0.01, +0.87]': a mean difference, its spread and interval as far as they are known."""
    values = list(differences.values())
    low, high = stats.seed_interval(values)[:2]
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    bounds = "" if low is None or high is None else f" [{signed(low)}, {signed(high)}]"
    return f"{signed(mean(values))}{spread}{bounds}"


def sentence(study: Study, finding: Finding) -> str:
    """The report's first line."""
    default = f"the default ({study.label(study.default)})"
    pending = "the default failed" if finding.failed else "the default is not complete yet"
    if finding.best is None or finding.best.value is None:
        if finding.default is not None:
            spread = "" if finding.spread is None else f" ± {finding.spread:.2f}"
            score = f"{finding.default:.2f}{spread} over {count(finding.seeds, 'seed')}"
            return f"No trial besides the default is complete yet; {default}: {score}"
        return "No trial is complete yet" + (f"; {pending}" if finding.failed else "")
    best = study.label(finding.best.params)
    if finding.lead is None or finding.means is None:
        pending = "it shares no seed with the default" if finding.default is not None else pending
        return f"Best so far: {best}, {finding.best.value:.2f} mIoU on {study.split}; {pending}"
    seeds = list(finding.differences)
    scores = f"{over_seeds(seeds)} ({finding.means[0]:.2f} and {finding.means[1]:.2f} mIoU on {study.split})"
    if finding.lead > 0:
        text = f"Best: {best}, {with_interval(finding.differences)} over {default} {scores}"
    else:
        others = f"The best of {count(finding.tried, 'other setting')}"
        text = f"{others} does not beat {default}: {best}, {with_interval(finding.differences)} {scores}"
    if finding.noise is None:
        return f"{text}: {count(len(seeds), 'shared seed')}, so the noise is unknown"
    than = "leads by up to" if finding.lead > 0 else "differs by up to"
    equal = f"the best of {count(finding.tried, 'equal setting')} {than} {finding.noise:.2f}"
    return f"{text}: more than noise, {equal}" if finding.distinguishable else f"{text}: not distinguishable, {equal}"
