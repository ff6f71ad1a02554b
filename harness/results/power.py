"""Seeds that a gain takes to be decided, and the smallest gain that a table's seeds and videos would have shown.

The noise of a gain is that of its interval (results/stats): a standard deviation between seeds, and an error from
the choice of videos that more seeds do not lessen. Where nothing is measured, priors stand for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.config import input_digests
from harness.plan.cell import Cell
from harness.plan.cost import Cost
from harness.plan.job import Train
from harness.plan.plan import Experiment, Plan
from harness.results import paper, records, stats
from harness.results import rows as results
from harness.results.paper import count
from harness.results.rows import CellResult, Context, Gain, Row
from harness.results.table import signed

POWER = 0.8
PRIOR_SEEDS = 0.5  # points of mIoU between trainings of one model
PRIOR_UNITS = 0.2  # points, the standard error of a gain from the choice of PRIOR_VIDEOS videos
PRIOR_VIDEOS = 343
MOST = 100  # seeds; more is no answer


@dataclass(frozen=True)
class Noise:
    """Of a gain, in points of mIoU."""

    seeds: float  # standard deviation between seeds
    units: float | None  # standard error from the choice of videos; None: these videos alone are spoken of
    count: int = PRIOR_VIDEOS  # units
    measured: bool = True  # between seeds; else a prior

    @property
    def text(self) -> str:
        """'this noise (seeds ±0.55, videos ±0.20)'."""
        videos = "these videos" if self.units is None else f"videos ±{self.units:.2f}"
        return f"{'this' if self.measured else 'an assumed'} noise (seeds ±{self.seeds:.2f}, {videos})"


@dataclass(frozen=True)
class Need:
    """The seeds that one row's gain over another needs to be decided in POWER of the cases."""

    cell: str
    baseline: str
    gain: float | None  # that the paper claims; None where it claims none
    noise: Noise
    seeds: int  # that both have
    needed: int | None  # seeds that decide `gain`; None where it is None, or where MOST do not
    trainings: int  # that are still to be run for it, of the whole table
    gpu_hours: float | None  # of these
    smallest: float | None  # gain that `seeds` would show; None for a single one

    @property
    def sentence(self) -> str | None:
        """The seeds that the paper's gain needs; None where it claims none."""
        if self.gain is None:
            return None
        head = f"to decide {signed(self.gain)} at {self.noise.text} in {POWER:.0%} of cases"
        if self.needed is None:
            few = self.noise.units is not None and power(self.gain, replace(self.noise, seeds=0.0), MOST) < POWER
            return f"{head}: more than {MOST} seeds" + (", because there are too few videos" if few else "")
        have = f"{head}: {count(self.needed, 'seed')}; you have {self.seeds}"
        if not self.trainings:
            return have
        hours = "" if self.gpu_hours is None else f", about {self.gpu_hours:.3g} GPU-hours"
        return f"{have}; {count(self.trainings, 'more training')}{hours}"

    @property
    def json(self) -> dict[str, object]:
        """Under "power" in `plan --power --json` and `report --json`."""
        noise = {"sd_seeds": self.noise.seeds, "sd_units": self.noise.units, "measured": self.noise.measured}
        question = {"cell": self.cell, "over": self.baseline, "gain": self.gain, "power": POWER, **noise}
        answer = {"seeds": self.seeds, "seeds_needed": self.needed, "trainings": self.trainings}
        return {
            **question,
            **answer,
            "gpu_hours": self.gpu_hours,
            "smallest_gain": self.smallest,
            "text": self.sentence,
        }


def power(gain: float, noise: Noise, seeds: int) -> float:
    """Return the probability that the interval from so many seeds excludes 0 on the gain's side; 0 for one seed."""
    if seeds < 2:
        return 0.0
    parts = [(noise.seeds**2 / seeds, seeds - 1.0)]
    parts += [] if noise.units is None else [(noise.units**2, noise.count - 1.0)]
    error = sum(variance for variance, _ in parts) ** 0.5
    if error == 0:
        return float(gain != 0)
    from scipy.special import nctdtr  # a tenth of a second

    factor, df = stats.quantile(parts, (1 + stats.LEVEL) / 2)
    shift = min(abs(gain) / error, 30.0)  # beyond it is certain
    return 1 - float(nctdtr(df, shift, factor))


def seeds_needed(gain: float, noise: Noise) -> int | None:
    """Return the fewest seeds whose interval excludes 0 in POWER of the cases; None where MOST do not."""
    return next((seeds for seeds in range(2, MOST + 1) if power(gain, noise, seeds) >= POWER), None)


def smallest_gain(noise: Noise, seeds: int) -> float | None:
    """Return the gain that so many seeds show in POWER of the cases; None for one seed."""
    scale = noise.seeds + (noise.units or 0.0)
    if seeds < 2 or scale == 0:
        return None if seeds < 2 else 0.0
    return stats.root(lambda gain: power(gain, noise, seeds) - POWER, 0.0, 30 * scale)


def noise_of(ours: Gain, same_checkpoints: bool, units: int) -> Noise | None:
    """Return a gain's measured noise, priors for the rest; None where rows of the same checkpoints have not two seeds.

    `units`: videos or recordings of the split.
    """
    error, measured = ours.interval.sd_units, ours.interval.sd_seeds
    if measured is None and same_checkpoints:
        return None
    if measured is None and units >= stats.FEWEST:  # one seed's error holds the interaction too: no less than it is
        prior = PRIOR_UNITS * (PRIOR_VIDEOS / units) ** 0.5
        error = prior if error is None else min(error, prior)
    between = 2**0.5 * PRIOR_SEEDS if measured is None else measured  # two trainings, each with its own luck
    return Noise(between, error, units, measured is not None)


def needs(rows: Sequence[Row], context: Context, hours: float | None = None, videos: int = PRIOR_VIDEOS) -> list[Need]:
    """Return the needs of every gain of the paper whose rows are both there, and of every row over its baseline.

    `hours`: GPU-hours of one training; None: by the finished ones in the context's evidence. `videos`: of the split,
    where no row is done.
    """
    by_cell = {row.cell: row for row in rows}
    claims = {(claim.cell, claim.baseline): claim.gain for claim in paper.claims(context.experiment)}
    pairs = dict.fromkeys((row.cell, row.baseline) for row in rows if row.baseline)
    units = min((row.units for row in rows if row.units is not None), default=videos)
    each = trainings(rows)
    each_hours = training_hours(rows, context) if hours is None else hours
    answers = []
    for cell, baseline in dict.fromkeys((*claims, *pairs)):
        if not {cell, baseline} <= by_cell.keys():
            continue
        ours, theirs = by_cell[cell], by_cell[baseline]
        gain = results.gain(ours, theirs)
        noise = noise_of(gain, _members(ours) == _members(theirs) and all(_members(ours).values()), units)
        claim = claims.get((cell, baseline))
        if noise is None or (claim is None and gain.seeds and not noise.measured):
            continue
        needed = None if claim is None else seeds_needed(claim, noise)
        more = 0 if needed is None else round(max(0, needed - gain.seeds) * each)
        cost = None if each_hours is None else more * each_hours
        smallest = smallest_gain(noise, gain.seeds)
        answers.append(Need(cell, baseline, claim, noise, gain.seeds, needed, more, cost, smallest))
    return answers


def _members(row: Row) -> dict[int, tuple[str, ...]]:
    return {run.seed: run.members for run in row.runs}


def trainings(rows: Sequence[Row]) -> float:
    """Return the number of trainings that one more seed of a whole table takes."""
    runs = [run for row in rows for run in row.runs]
    seeds = len({run.seed for run in runs})
    return len({member for run in runs for member in run.members}) / seeds if seeds else 0.0


def training_hours(rows: Sequence[Row], context: Context) -> float | None:
    """Return the mean GPU-hours of the finished trainings; None without one."""
    members = {member for row in rows for run in row.runs for member in run.members}
    jobs = [job for job in context.evidence.jobs if job.get("fingerprint") in members and job.get("seconds")]
    return float(np.mean([job["seconds"] * job.get("world", 1) for job in jobs])) / 3600 if jobs else None


def of_plan(plan: Plan, experiment: Experiment, costs: Sequence[Cost]) -> list[Need]:
    """Return the needs of a plan's experiment, by the results under its root. Raise UnfitError for damaged files."""
    measured = [
        _evaluation(plan, cell, results.result(experiment, order, seed, cell))
        for order, (seed, cell) in enumerate(experiment.cells)
    ]
    jobs = [job for job in experiment.jobs if isinstance(job, Train)]
    seconds = [cost.device_seconds for cost in costs if {job.fingerprint for job in jobs}.issuperset(cost.jobs)]
    for job in jobs:
        if plan.state(job) == "done":
            facts = records.provenance(plan.directory(job))
            seconds.append(facts["seconds"] and facts["seconds"] * facts.get("world", 1))
    numbers = [number for number in seconds if number is not None]
    hours = float(np.mean(numbers)) / 3600 if numbers else None
    videos = experiment.config.content.videos.get("val") or PRIOR_VIDEOS
    return needs(results.aggregate(measured), results.context(experiment, ()), hours, videos)


def _evaluation(plan: Plan, cell: Cell, result: CellResult) -> CellResult:
    """Add the mIoU and the matrices of a cell that is done."""
    if cell.skip is not None or plan.state(cell.job) != "done":
        return result
    run = records.read_evaluation(plan.directory(cell.job))
    if not run.labelled:
        return result
    unit_of = input_digests.units(cell.job.config, run.videos)
    units = len(set(unit_of.values()))
    return replace(result, status="done", miou=run.final["miou"], units=units, videos=run.videos, unit_of=unit_of)


def lines(needs: Sequence[Need], experiment: Experiment, seeds: int) -> list[str]:
    """Return the lines of `plan --power` on one experiment, `seeds` being those of the plan."""
    labels = {cell.name: cell.label or cell.method for _, cell in experiment.cells}
    texts = [] if needs else ["  no gain between trainings"]
    for need in needs:
        whom = f"  {labels[need.cell]} over {labels[need.baseline]}"
        shown = smallest_gain(need.noise, seeds)
        with_seeds = f"with {count(seeds, 'seed')} "
        with_seeds += "no gain at all" if shown is None else f"a gain of {shown:.2f} or more"
        texts.append(f"{whom}: {need.sentence or need.noise.text}; {with_seeds} would be detected")
    return texts
