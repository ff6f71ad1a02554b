"""The result of a search, in one sentence that is not fooled by the best of many noisy trials.

The best of n equal settings leads the default's mean by noise alone, and the spread that tells by how much is itself
known from a few seeds only. A lead that equal settings stay under in 95 % of cases (`stats.lead`) is told as "not
distinguishable".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from harness.plan.study import Study, Trial
from harness.results import stats
from harness.results.paper import count
from harness.results.table import signed


@dataclass(frozen=True)
class Finding:
    """The best setting against the default; mIoU in percent. None where it is not known yet."""

    best: Trial | None  # of the complete ones that are not the default
    default: float | None  # mean over its seeds
    spread: float | None  # sample standard deviation over them
    seeds: int
    tried: int  # settings beside the default, pruned ones included
    failed: bool = False  # the default, under each of its seeds

    @property
    def lead(self) -> float | None:
        """Of the best over the default's mean."""
        if self.best is None or self.best.value is None or self.default is None:
            return None
        return self.best.value - self.default

    @property
    def noise(self) -> float | None:
        """The lead that the best of so many equal settings stays under in 95 % of cases."""
        return stats.lead(self.spread, self.seeds, self.tried)

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


def find(trials: Sequence[Trial]) -> Finding:
    """The finding of a study's trials so far."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    own = [float(trial.value or 0) for trial in complete if trial.default]
    others = [trial for trial in complete if not trial.default]
    return Finding(
        best=max(others, key=lambda trial: float(trial.value or 0)) if others else None,
        default=mean(own) if own else None,
        spread=stdev(own) if len(own) > 1 else None,
        seeds=len(own),
        tried=sum(trial.state in ("complete", "pruned") and not trial.default for trial in trials),
        failed={trial.state for trial in trials if trial.default} == {"failed"},
    )


def sentence(study: Study, finding: Finding) -> str:
    """The report's first line."""
    ended = f"{finding.default:.2f}" if finding.default is not None else ""
    spread = (
        f" ± {finding.spread:.2f} over {count(finding.seeds, 'seed')}" if finding.spread is not None else ", one seed"
    )
    default = f"the default ({study.said(study.default)}: {ended}{spread})"
    pending = "the default failed" if finding.failed else "the default is not complete yet"
    if finding.best is None or finding.best.value is None:
        if ended:
            return f"No trial beside the default is complete yet; {default}"
        return "No trial is complete yet" + (f"; {pending}" if finding.failed else "")
    best = f"{study.said(finding.best.params)}, {finding.best.value:.2f} mIoU on {study.split}"
    if finding.lead is None:
        return f"Best so far: {best}; {pending}"
    if finding.lead > 0:
        lead, than = f"Best: {best}, {signed(finding.lead)} over {default}", "leads by up to"
    else:
        others = f"the best of {count(finding.tried, 'other setting')}"
        lead, than = f"Nothing beats {default}: {others} is {best}, {signed(finding.lead)}", "differs by up to"
    if finding.noise is None:
        return f"{lead}: the default's spread is not known, so whether that is more than noise is not either"
    equal = f"the best of {count(finding.tried, 'equal setting')} {than}"
    if finding.distinguishable:
        return f"{lead}: more than the {finding.noise:.2f} that {equal}"
    return f"{lead}: not distinguishable, {equal} {finding.noise:.2f}"
