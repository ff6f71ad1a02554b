"""What a search has found, in one sentence that is not fooled by the best of many noisy trials.

The best of n equal settings leads their mean by noise alone: by spread × E[largest of n normal draws], where spread is
the default's standard deviation over its seeds. A lead that is not larger than that, and than one spread, is told as
"not distinguishable".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

from harness.plan.study import Study, Trial
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
        """The lead that seeds alone would give the best of so many equal settings, at least one spread."""
        return None if self.spread is None else self.spread * max(1.0, largest(self.tried))

    @property
    def distinguishable(self) -> bool | None:
        """Whether the lead, or what it is behind by, is more than that; None where it cannot be said."""
        return None if self.lead is None or self.noise is None else abs(self.lead) > self.noise


def largest(draws: int) -> float:
    """Expectation of the largest of so many standard normal draws, by Blom's approximation (to 1 % from 2 on)."""
    return NormalDist().inv_cdf((draws - 0.375) / (draws + 0.25)) if draws > 1 else 0.0


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


def sentence(study: Study, found: Finding) -> str:
    """The report's first line."""
    ended = f"{found.default:.2f}" if found.default is not None else ""
    over = f" ± {found.spread:.2f} over {count(found.seeds, 'seed')}" if found.spread is not None else ", one seed"
    default = f"the default ({study.said(study.default)}: {ended}{over})"
    pending = "the default failed" if found.failed else "the default is not complete yet"
    if found.best is None or found.best.value is None:
        if ended:
            return f"No trial beside the default is complete yet; {default}"
        return "No trial is complete yet" + (f"; {pending}" if found.failed else "")
    best = f"{study.said(found.best.params)}, {found.best.value:.2f} mIoU on {study.split}"
    if found.lead is None:
        return f"Best so far: {best}; {pending}"
    if found.lead > 0:
        lead, than = f"Best: {best}, {signed(found.lead)} over {default}", "leads by"
    else:
        others = f"the best of {count(found.tried, 'other setting')}"
        lead, than = f"Nothing beats {default}: {others} is {best}, {signed(found.lead)}", "differs by"
    if found.noise is None:
        return f"{lead}: the default's spread is not known, so whether that is more than noise is not either"
    equal = f"the best of {found.tried} equal settings {than}"
    if found.distinguishable:
        return f"{lead}: more than the {found.noise:.2f} that {equal}"
    return f"{lead}: not distinguishable, {equal} {found.noise:.2f}"
