"""Rows of a table: one per cell of an experiment, over its seeds. mIoU and gains are in percent.

A cell that has no number keeps its row, with a status and a reason. All that is printed, drawn or logged reads `Row`;
a report file of a person receives a pandas frame (results/frame).
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.plan.cell import Cell
from harness.plan.job import GIVEN
from harness.plan.plan import Experiment, setting
from harness.results import means, paper, stats
from harness.results.evidence import Evidence, FrameCost, frame_cost
from harness.results.units import Sample, UnitTotals

STATUSES = (  # a cell of several seeds has the first of these that a seed has
    "failed",
    "running",
    "missing",
    "unlabelled",
    "done",
)


@dataclass(frozen=True)
class CellResult:
    """The result of one cell's job for one seed; everything after `seed` may be unknown.

    Confusion matrices (`videos`: name -> (K, K), rows are the ground truth) are kept as sums by unit.
    """

    experiment: str
    cell: str
    label: str  # the row's name in a table
    seed: int
    status: str = "missing"  # one of STATUSES; unlabelled: there are masks, and no ground truth to count them against
    reason: str | None = None  # why it is not done
    method: str | None = None
    backbone: str | None = None
    epochs: int | None = None
    fingerprint: str | None = None
    miou: float | None = None  # percent
    metrics: Mapping[str, float] = field(default_factory=dict)  # RunRecord.final: all numbers, percent
    run_id: str | None = None
    units: int | None = None  # what mIoU was taken over: videos, or recordings
    order: int = 0  # of the cell in its experiment
    baseline: str | None = None  # the cell that the gain is measured against
    commit: str | None = None
    dirty: bool | None = None
    device: str | None = None
    precision: str | None = None
    bn_group: int | None = None  # samples over which batch norm took its statistics in training
    versions: Mapping[str, str] = field(default_factory=dict)
    changed: str | None = None  # a source file that is no longer what the job ran with
    stage: str | None = None  # whose mask P is: "stage0" (the decoder's own rule), "stage1", …, "truth"
    moved: float | None = None  # percent of pixels whose class is another than at the stage before
    exited: float | None = None  # percent of windows that the stage left as they were, exactly
    members: tuple[str, ...] = ()  # fingerprints of the trainings whose model this is
    videos: InitVar[Mapping[str, NDArray[np.int64]] | None] = None
    unit_of: InitVar[Mapping[str, str] | None] = None  # video -> what is resampled; None: the video itself
    sums: stats.UnitSums | None = field(default=None, repr=False, compare=False)
    totals: Mapping[str, UnitTotals] = field(default_factory=dict, repr=False, compare=False)  # by metric

    def __post_init__(self, videos: Mapping[str, NDArray[np.int64]] | None, unit_of: Mapping[str, str] | None) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.cell}: status '{self.status}', not one of {', '.join(STATUSES)}")
        if (self.status == "done") != (self.miou is not None):
            raise ValueError(f"{self.cell} seed {self.seed}: a cell has an mIoU exactly if it is done")
        if videos is not None:
            object.__setattr__(self, "sums", stats.unit_sums(videos, unit_of))

    def sample(self, number: str) -> Sample | None:
        """Return one of its numbers over units; None where the sums are not at hand."""
        if number == "miou":
            return self.sums
        owner = next((totals for totals in self.totals.values() if number in totals.metric.names), None)
        return None if owner is None else owner.number(number)


@dataclass(frozen=True)
class Context:
    """Facts of one experiment that a report shows around its numbers."""

    experiment: str
    title: str  # "Table 1 – Ablation study of model ensemble"
    preset: str
    dataset: str
    comparable: bool  # whether the numbers may stand beside the paper's
    reasons: tuple[str, ...] = ()  # paper.not_the_papers: why not
    command: str = ""  # what makes the report again
    link: str = ""  # a run's page, up to its id; empty where the store has no pages
    evidence: Evidence = field(default_factory=Evidence, repr=False)
    vc: str = "official"  # which video consistency is printed: official or strict
    margin: float = stats.MARGIN  # points of mIoU below which a difference is none
    columns: tuple[str, ...] = ()  # of COST that the main table has, too
    svg: bool = False  # whether figures are SVG, too

    def cost(self, row: "Row") -> FrameCost:
        """Return what a frame of a row takes."""
        own = {run.fingerprint for run in row.done}
        return frame_cost([job for job in self.evidence.jobs if job["fingerprint"] in own])

    @property
    def reason(self) -> str | None:
        """The reasons in one line; None where there are none."""
        return "; ".join(self.reasons) or None


@dataclass(frozen=True)
class Gain:
    """The difference of one row and another, in percent, over the seeds that both have done."""

    by_seed: Mapping[int, float]
    interval: stats.Interval  # of the mean over seeds
    same_checkpoints: bool  # whether both evaluate the same trainings, as the stages do

    @property
    def seeds(self) -> int:
        """Number of seeds that both have done."""
        return len(self.by_seed)

    @property
    def mean(self) -> float | None:
        """None where no seed has both."""
        return means.mean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return means.sd(self.by_seed.values())


@dataclass(frozen=True)
class ClaimResult:
    """A gain that the paper states, and our answer."""

    claim: paper.Claim
    ours: Gain
    verdict: str | None  # one of stats.MEANINGS
    reason: str | None  # why the verdict is no more than that


@dataclass(frozen=True)
class Row:
    """One cell over its seeds: means and sample standard deviations over those that are done, gains paired by seed.

    `claim` is the paper's for this cell, which may be against another baseline than the row's own `gain`; it needs a
    context, which decides whether ours may stand beside the paper's.
    """

    experiment: str
    cell: str
    label: str
    method: str | None
    backbone: str | None
    epochs: int | None
    order: int
    baseline: str | None
    stage: str | None
    runs: tuple[CellResult, ...]  # one a seed
    status: str  # one of STATUSES
    reason: str | None  # why seeds are not done
    units: int | None  # videos or recordings, the fewest of a seed
    miou: float | None
    sd: float | None
    interval: stats.Interval  # of mIoU
    gain: Gain  # over the baseline
    paper_miou: float | None
    paper_gain: float | None
    changed: str | None  # source files that are no longer what its jobs ran with
    moved: float | None
    exited: float | None
    metrics: Mapping[str, float]  # means of all numbers that every seed has
    claim: ClaimResult | None = None
    against: tuple[CellResult, ...] = field(default=(), repr=False, compare=False)  # the baseline's runs

    @property
    def done(self) -> tuple[CellResult, ...]:
        """The seeds that have a number."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def planned(self) -> int:
        """Number of seeds, done or not."""
        return len(self.runs)

    @property
    def seeds(self) -> int:
        """Number of seeds that are done."""
        return len(self.done)

    @property
    def sums(self) -> tuple[stats.UnitSums, ...]:
        """Sums by unit of the seeds that have them."""
        return tuple(run.sums for run in self.done if run.sums is not None)

    @property
    def described(self) -> str | None:
        """The units in words, '343 videos'."""
        return self.sums[0].described if self.sums else None

    @property
    def no_interval(self) -> str | None:
        """Why mIoU, or else the gain, has no interval."""
        return self.interval.reason or (f"gain: {self.gain.interval.reason}" if self.gain.interval.reason else None)

    @property
    def verdict(self) -> str | None:
        """On the paper's claim."""
        return self.claim.verdict if self.claim else None

    def values(self, names: Iterable[str]) -> dict[str, object]:
        """Return plain values by name (SUMMARY), None for every kind of unknown: a line of a CSV file or of JSON."""
        return {name: means.null(attrgetter(NESTED.get(name, name))(self)) for name in names}


NESTED = {  # name in SUMMARY -> attribute of a row
    **{name: f"interval.{name}" for name in ("low", "high", "sd_seeds", "sd_units")},
    **{f"gain_{name}": f"gain.interval.{name}" for name in ("low", "high", "sd_seeds", "sd_units")},
    **{"interval_of": "interval.of", "gain_interval_of": "gain.interval.of"},
    **{"gain": "gain.mean", "gain_sd": "gain.sd", "gain_seeds": "gain.seeds"},
}


def result(experiment: Experiment, order: int, seed: int, cell: Cell, **measured: Any) -> CellResult:
    """Return a cell of a plan with what is measured of it; the plan says the rest."""
    config = cell.job.members[0].config  # a row may have a setting of its own
    facts = setting(config)
    return CellResult(
        experiment=experiment.name,
        cell=cell.name,
        label=cell.label or cell.method,
        seed=seed,
        method=cell.method,
        backbone=paper.backbone(facts["encoder"]),
        epochs=facts["epochs"],
        fingerprint=cell.job.fingerprint,
        order=order,
        baseline=cell.over,
        precision=facts["precision"],
        bn_group=config.micro_batch,
        stage=str(cell.job.prior) if cell.job.prior in GIVEN else f"stage{cell.job.stage}",
        members=tuple(member.fingerprint for member in cell.job.members),
        **measured,
    )


def context(
    experiment: Experiment, command: Sequence[str], evidence: Evidence | None = None, link: str = ""
) -> Context:
    """Return what a report of a plan's experiment says around its numbers."""
    facts = setting(experiment.config)
    reasons = tuple(paper.not_the_papers(facts))
    options = experiment.config.tree.get("report", {})  # older plans have no such keys
    return Context(
        experiment=experiment.name,
        title=experiment.title,
        preset=experiment.config.preset,
        dataset=facts["dataset"],
        comparable=not reasons,
        reasons=reasons,
        command=shlex.join(command),
        link=link,
        evidence=evidence or Evidence(),
        vc=experiment.config["evaluate"].get("vc") or "official",
        margin=options.get("margin", stats.MARGIN),
        columns=tuple(options.get("columns", ())),
        svg=options.get("svg", False),
    )


def in_order(results: Iterable[CellResult]) -> list[CellResult]:
    """Return results by experiment, cell and seed. Raise ValueError where a cell's seed occurs twice."""
    results = list(results)
    for (experiment, cell, seed), number in Counter((r.experiment, r.cell, r.seed) for r in results).items():
        if number > 1:
            raise ValueError(f"{experiment}: cell {cell}, seed {seed} occurs twice")
    experiments = list(dict.fromkeys(result.experiment for result in results))
    return sorted(results, key=lambda result: (experiments.index(result.experiment), result.order, result.seed))


def aggregate(results: Iterable[CellResult], context: Context | None = None) -> list[Row]:
    """Return the rows of all cells, in order; those of the context's experiment with the paper's claims.

    Raise ValueError where a cell's seed occurs twice.
    """
    runs: dict[tuple[str, str | None], list[CellResult]] = {}
    for run in in_order(results):
        runs.setdefault((run.experiment, run.cell), []).append(run)
    rows = [_row(own, runs.get((own[0].experiment, own[0].baseline), [])) for own in runs.values()]
    return rows if context is None else _with_claims(rows, context)


def _row(runs: list[CellResult], baseline: list[CellResult]) -> Row:
    first = runs[0]
    done = [run for run in runs if run.status == "done"]
    published = paper.published(first.experiment, first.cell)
    return Row(
        experiment=first.experiment,
        cell=first.cell,
        label=first.label,
        method=first.method,
        backbone=first.backbone,
        epochs=first.epochs,
        order=first.order,
        baseline=first.baseline,
        stage=first.stage,
        runs=tuple(runs),
        status=next(status for status in STATUSES if any(run.status == status for run in runs)),
        reason=_reason(runs),
        units=min((run.units for run in done if run.units is not None), default=None),
        miou=means.mean(run.miou for run in done),
        sd=means.sd(run.miou for run in done),
        interval=interval_of(done),
        gain=gain_of(done, baseline),
        paper_miou=published.miou if published else None,
        paper_gain=published.gain if published else None,
        changed=", ".join(sorted({run.changed for run in runs if run.changed})) or None,
        moved=means.mean(run.moved for run in done),
        exited=means.mean(run.exited for run in done),
        metrics=means.of_all([run.metrics for run in done]),
        against=tuple(baseline),
    )


def gain(ours: Row, baseline: Row) -> Gain:
    """Return a row's difference to another of the same experiment."""
    return gain_of(ours.done, baseline.done)


def gain_of(ours: Sequence[CellResult], baseline: Sequence[CellResult], number: str = "miou") -> Gain:
    """Return the gain of runs over a baseline's in one of their numbers."""
    theirs = {run.seed: run for run in baseline if run.status == "done"}
    pairs = [(run, theirs[run.seed]) for run in ours if run.seed in theirs]
    same = all(run.members and run.members == other.members for run, other in pairs)
    if number == "miou":
        differences = [(run.seed, (run.miou or 0) - (other.miou or 0)) for run, other in pairs]
    else:
        pairs = [(run, other) for run, other in pairs if number in run.metrics and number in other.metrics]
        differences = [(run.seed, run.metrics[number] - other.metrics[number]) for run, other in pairs]
    by_seed = {seed: difference for seed, difference in differences if math.isfinite(difference)}
    return Gain(by_seed, interval_of([run for run, _ in pairs], [other for _, other in pairs], same, number), same)


def interval_of(
    ours: Sequence[CellResult],
    baseline: Sequence[CellResult] = (),
    same_checkpoints: bool = False,
    number: str = "miou",
) -> stats.Interval:
    """Return the interval in percent. Rows of pairs of models may share trainings: no independent seeds."""
    trainings = [set(run.members) for run in ours]
    trainings = [own | set(run.members) for own, run in zip(trainings, baseline or ours, strict=True)]
    if sum(map(len, trainings)) > len(set().union(*trainings)):
        return stats.Interval(reason="its seeds share trainings")
    samples = [[run.sample(number) for run in runs] for runs in (ours, baseline)]
    return stats.interval(samples[0], samples[1], same_checkpoints).percent


def _with_claims(rows: list[Row], context: Context) -> list[Row]:
    by_cell = {row.cell: row for row in rows if row.experiment == context.experiment}
    for claim in paper.claims(context.experiment):
        if {claim.cell, claim.baseline} <= by_cell.keys():
            ours = gain(by_cell[claim.cell], by_cell[claim.baseline])
            verdict = stats.verdict(claim.gain, ours.interval, reasons(context), context.margin)
            answer = ClaimResult(claim, ours, verdict.word, verdict.reason)
            by_cell[claim.cell] = replace(by_cell[claim.cell], claim=answer)
    return [by_cell[row.cell] if row.experiment == context.experiment else row for row in rows]


def claims(rows: Iterable[Row]) -> list[ClaimResult]:
    """Return the paper's claims that both rows are there for, in the paper's order."""
    answers = [row.claim for row in rows if row.claim is not None]
    return sorted(answers, key=lambda answer: paper.CLAIMS.index(answer.claim))


def reasons(context: Context) -> tuple[str, ...]:
    """Return why a context's numbers may not stand beside the paper's; never empty where they may not."""
    return () if context.comparable else context.reasons or ("not the paper's setting",)


def _reason(runs: Sequence[CellResult]) -> str | None:
    """Return why seeds are not done: once where it is the same for all, else seed by seed."""
    undone = [run for run in runs if run.status != "done"]
    texts = [run.reason or run.status for run in undone]
    if not texts:
        return None
    if len(texts) == len(runs) and len(set(texts)) == 1:
        return undone[0].reason
    return "; ".join(f"seed {run.seed}: {text}" for run, text in zip(undone, texts, strict=True))
