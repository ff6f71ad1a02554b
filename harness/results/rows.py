"""The results frame: one row per (cell, seed), tidy; and what is said of a cell over its seeds.

mIoU and gains are in percent. A cell that has no number keeps its row, with a status and a reason.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.plan.cell import Cell
from harness.plan.job import GIVEN
from harness.plan.plan import Experiment, setting
from harness.results import paper, stats
from harness.results.evidence import Evidence

SCHEMA = 1  # of rows_json
STATUSES = (
    "failed",
    "running",
    "missing",
    "unlabelled",
    "done",
)  # a cell of several seeds has the first of these that one has


@dataclass(frozen=True)
class CellResult:
    """What one cell's job came to for one seed; everything after `seed` may be unknown."""

    experiment: str
    cell: str
    label: str  # the row's name in a table
    seed: int
    status: str = "missing"  # one of STATUSES; unlabelled: masks are there, and no truth to count them against
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
    baseline: str | None = None  # the cell that the gain is over
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
    videos: Mapping[str, NDArray[np.int64]] | None = field(default=None, repr=False, compare=False)  # name -> (K, K)
    unit_of: Mapping[str, str] | None = field(default=None, repr=False, compare=False)  # video -> what is resampled

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.cell}: status '{self.status}', not one of {', '.join(STATUSES)}")
        if (self.status == "done") != (self.miou is not None):
            raise ValueError(f"{self.cell} seed {self.seed}: a cell has an mIoU exactly if it is done")


@dataclass(frozen=True)
class Context:
    """What a report says around the numbers of one experiment."""

    experiment: str
    title: str  # "Table 1 – Ablation study of model ensemble"
    preset: str
    dataset: str
    comparable: bool  # whether the numbers may stand beside the paper's
    reasons: tuple[str, ...] = ()  # core.paper.not_the_papers: why not
    command: str = ""  # what makes the report again
    link: str = ""  # a run's page, up to its id; empty where the store has no pages
    evidence: Evidence = field(default_factory=Evidence, repr=False)
    vc: str = "official"  # which video consistency is printed: official or strict
    margin: float = stats.MARGIN  # points of mIoU below which a difference is none

    @property
    def reason(self) -> str | None:
        """The reasons in one line; None where there are none."""
        return "; ".join(self.reasons) or None


def result(experiment: Experiment, order: int, seed: int, cell: Cell, **found: Any) -> CellResult:
    """A cell of a plan with what was found of it: what the plan alone says is filled in here."""
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
        **found,
    )


def context(
    experiment: Experiment, command: Sequence[str], evidence: Evidence | None = None, link: str = ""
) -> Context:
    """What a report of a plan's experiment says around its numbers."""
    facts = setting(experiment.config)
    reasons = tuple(paper.not_the_papers(facts))
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
        margin=experiment.config.tree.get("report", {}).get("margin", stats.MARGIN),  # older plans have no such key
    )


REDUCED = ("videos", "unit_of")  # the frame holds their sums by unit instead, and rows_json neither
KEPT = tuple(f.name for f in fields(CellResult) if f.name not in REDUCED)
COLUMNS = (*KEPT, "sums", "paper_miou", "paper_gain")  # sums: stats.UnitSums, or None
RUN = ("seed", "status", "reason", "fingerprint", "miou", "metrics", "run_id", "units")
PROVENANCE = ("commit", "dirty", "device", "precision", "versions", "changed")
ROW = (  # with "runs": the row of rows_json
    *("cell", "status", "reason", "seeds", "units", "miou", "low", "high"),
    *("gain", "gain_low", "gain_high", "paper_miou", "paper_gain", "verdict"),
    *("interval_of", "sd_seeds", "sd_units", "gain_interval_of", "gain_sd_seeds", "gain_sd_units"),
)
NUMBERS = ("miou", "moved", "exited", "paper_miou", "paper_gain")
COUNTS = ("seed", "epochs", "units", "order", "bn_group")
SUMMARY = (
    *("experiment", "cell", "label", "method", "backbone", "epochs", "order", "baseline", "status", "reason"),
    *("planned", "seeds", "units", "miou", "sd", "low", "high", "interval_of", "sd_seeds", "sd_units"),
    *("no_interval", "described", "gain", "gain_sd", "gain_seeds", "gain_low", "gain_high"),
    *("gain_interval_of", "gain_sd_seeds", "gain_sd_units"),
    *("paper_miou", "paper_gain", "verdict", "changed", "stage", "moved", "exited", "metrics"),
)


@dataclass(frozen=True)
class Difference:
    """One cell over another, in percent: a gain for every seed that both have done."""

    gains: pd.Series
    interval: stats.Interval  # of the mean over seeds
    same_checkpoints: bool  # whether both evaluate the same trainings, as the stages do

    @property
    def mean(self) -> float | None:
        """None where no seed has both."""
        return None if self.gains.empty else float(self.gains.mean())


@dataclass(frozen=True)
class ClaimResult:
    """What our cells say of a gain that the paper states."""

    claim: paper.Claim
    ours: Difference
    verdict: str | None  # one of stats.WORDS
    reason: str | None  # why the verdict is no more than that


def build(results: Iterable[CellResult]) -> pd.DataFrame:
    """The results frame (COLUMNS) with the paper's numbers joined on (experiment, cell), in the order of the cells.

    Raises ValueError where a cell's seed stands twice, and for matrices that do not fit together.
    """
    records = []
    for result in results:
        known = paper.published(result.experiment, result.cell)
        kept = {key: getattr(result, key) for key in KEPT}
        sums = None if result.videos is None else stats.unit_sums(result.videos, result.unit_of)
        joined = {"paper_miou": known.miou if known else None, "paper_gain": known.gain if known else None}
        records.append({**kept, "sums": sums, **joined})
    frame = pd.DataFrame(records, columns=list(COLUMNS), dtype=object)
    twice = frame.duplicated(["experiment", "cell", "seed"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise ValueError(f"{row['experiment']}: cell {row['cell']}, seed {row['seed']} stands twice")
    frame = frame.astype({**dict.fromkeys(NUMBERS, "float64"), **dict.fromkeys(COUNTS, "Int64")})
    appearance = {name: place for place, name in enumerate(frame["experiment"].unique())}
    keys = pd.DataFrame({"experiment": frame["experiment"].map(appearance), "order": frame["order"]})
    keys = keys.assign(seed=frame["seed"]).sort_values(["experiment", "order", "seed"], kind="stable")
    return frame.loc[keys.index].reset_index(drop=True)


def summary(frame: pd.DataFrame, context: Context | None = None) -> pd.DataFrame:
    """One row per cell (SUMMARY): mean and sample standard deviation over the seeds that are done, gain paired by seed.

    low, high, gain_low and gain_high are those of results/stats, and speak of what `interval_of` and `gain_interval_of`
    say; null with a reason in `no_interval`.
    `verdict` is on the paper's claim for the cell, which may be over another cell than the row's gain is (`claims`);
    null where the context is not given, since it decides whether ours may stand beside the paper's.
    """
    verdicts = {} if context is None else {one.claim.cell: one.verdict for one in claims(frame, context)}
    rows = []
    for (experiment, name), cell in frame.groupby(["experiment", "cell"], sort=False):
        known = context is not None and experiment == context.experiment
        rows.append({**_summary_row(frame, cell), "verdict": verdicts.get(str(name)) if known else None})
    return pd.DataFrame(rows, columns=list(SUMMARY), dtype=object)


def claims(frame: pd.DataFrame, context: Context) -> list[ClaimResult]:
    """The paper's claims that the context's experiment has both cells of, in the paper's order."""
    cells = set(frame.loc[frame["experiment"] == context.experiment, "cell"])
    found = []
    for claim in paper.claims(context.experiment):
        if {claim.cell, claim.over} <= cells:
            ours = difference(frame, claim.experiment, claim.cell, claim.over)
            said = stats.verdict(claim.gain, ours.interval, reasons(context), context.margin)
            found.append(ClaimResult(claim, ours, said.word, said.reason))
    return found


def reasons(context: Context) -> tuple[str, ...]:
    """Why a context's numbers may not stand beside the paper's; never empty where they may not."""
    return () if context.comparable else context.reasons or ("not the paper's setting",)


def difference(frame: pd.DataFrame, experiment: str, cell: str, over: str | None) -> Difference:
    """One cell over another of the same experiment; empty where `over` is None or no seed has both."""
    ours, base = (_done(frame, experiment, name) for name in (cell, over))
    gains = (ours["miou"] - base["miou"]).dropna()
    ours, base = ours.loc[gains.index], base.loc[gains.index]
    same = all(mine and mine == theirs for mine, theirs in zip(ours["members"], base["members"], strict=True))
    return Difference(gains, _interval(ours, base, same), same)


def _done(frame: pd.DataFrame, experiment: str, cell: str | None) -> pd.DataFrame:
    own = (frame["experiment"] == experiment) & (frame["cell"] == cell) & (frame["status"] == "done")
    return frame.loc[own, ["seed", "miou", "sums", "members"]].set_index("seed")


def _interval(ours: pd.DataFrame, base: pd.DataFrame | None = None, same: bool = False) -> stats.Interval:
    """In percent. Rows of pairs of models may share trainings between seeds: these are no independent seeds."""
    seeds = [set(members) for members in ours["members"]]
    if base is not None:
        seeds = [own | set(members) for own, members in zip(seeds, base["members"], strict=True)]
    if sum(map(len, seeds)) > len(set().union(*seeds)):
        return stats.Interval(reason="its seeds share trainings")
    return stats.interval(_sums(ours), [] if base is None else _sums(base), same).percent


def _sums(rows: pd.DataFrame) -> list[stats.UnitSums | None]:
    return [value if isinstance(value, stats.UnitSums) else None for value in rows["sums"]]


def _summary_row(frame: pd.DataFrame, cell: pd.DataFrame) -> dict[str, Any]:
    first = cell.iloc[0]
    done = cell[cell["status"] == "done"]
    over = difference(frame, first["experiment"], first["cell"], null(first["baseline"]))
    sums = _sums(done)
    interval, over_interval = _interval(done), over.interval
    units = done["units"].dropna()
    kept = ("experiment", "cell", "label", "method", "backbone", "epochs", "order", "baseline", "stage")
    changed = sorted({value for value in cell["changed"] if isinstance(value, str)})
    return {
        **{key: null(first[key]) for key in (*kept, "paper_miou", "paper_gain")},
        "status": next(status for status in STATUSES if (cell["status"] == status).any()),
        "reason": _reason(cell),
        "planned": len(cell),
        "seeds": len(done),
        "units": None if units.empty else int(units.min()),
        "miou": null(done["miou"].mean()),
        "sd": null(done["miou"].std()),
        "low": interval.low,
        "high": interval.high,
        "interval_of": interval.of,
        "sd_seeds": interval.sd_seeds,
        "sd_units": interval.sd_units,
        "no_interval": interval.reason or (f"gain: {over_interval.reason}" if over_interval.reason else None),
        "described": next((one.described for one in sums if one is not None), None),
        "gain": over.mean,
        "gain_sd": null(over.gains.std()),
        "gain_seeds": len(over.gains),
        "gain_low": over_interval.low,
        "gain_high": over_interval.high,
        "gain_interval_of": over_interval.of,
        "gain_sd_seeds": over_interval.sd_seeds,
        "gain_sd_units": over_interval.sd_units,
        "changed": ", ".join(changed) or None,
        "moved": null(done["moved"].mean()),
        "exited": null(done["exited"].mean()),
        "metrics": _means(list(done["metrics"])),
    }


def _means(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every number that all seeds have, in the order of the first."""
    shared = [key for key in (seeds[0] if seeds else {}) if all(key in one for one in seeds)]
    return {key: float(np.mean([one[key] for one in seeds])) for key in shared}


def _reason(cell: pd.DataFrame) -> str | None:
    """Why seeds are not done: once where it is the same for all, else seed by seed."""
    undone = cell[cell["status"] != "done"]
    texts = [null(row["reason"]) or row["status"] for _, row in undone.iterrows()]
    if not texts:
        return None
    if len(texts) == len(cell) and len(set(texts)) == 1:
        reason: str | None = null(undone.iloc[0]["reason"])
        return reason
    return "; ".join(f"seed {seed}: {text}" for seed, text in zip(undone["seed"], texts, strict=True))


def rows_json(frame: pd.DataFrame, contexts: Iterable[Context]) -> dict[str, Any]:
    """What `report --json` prints: null where a number is not known, never NaN; `seeds` counts the done.

    A row's `reason` is why it is not done, or for a done one why it has no interval.
    """
    return {"schema": SCHEMA, "experiments": [_experiment_json(frame, context) for context in contexts]}


def _experiment_json(frame: pd.DataFrame, context: Context) -> dict[str, Any]:
    own = frame[frame["experiment"] == context.experiment]
    rows = []
    for _, row in summary(own, context).iterrows():
        runs = own[own["cell"] == row["cell"]]
        listed = [{key: null(run[key]) for key in (*RUN, *PROVENANCE)} for _, run in runs.iterrows()]
        values = {key: null(row[key]) for key in ROW}
        rows.append({**values, "reason": values["reason"] or null(row["no_interval"]), "runs": listed})
    head = {"experiment": context.experiment, "preset": context.preset, "dataset": context.dataset}
    told = [_claim_json(one) for one in claims(own, context)]
    return {**head, "comparable": context.comparable, "reason": context.reason, "rows": rows, "claims": told}


def _claim_json(found: ClaimResult) -> dict[str, Any]:
    claim, ours = found.claim, found.ours
    theirs = {"cell": claim.cell, "over": claim.over, "paper_gain": claim.gain, "source": claim.source}
    mine = {"gain": null(ours.mean), "gain_low": null(ours.interval.low), "gain_high": null(ours.interval.high)}
    noise = {"interval_of": ours.interval.of, "sd_seeds": ours.interval.sd_seeds, "sd_units": ours.interval.sd_units}
    return {**theirs, **mine, **noise, "verdict": found.verdict, "reason": found.reason}


def null(value: Any) -> Any:
    """A frame's value as plain Python: numbers unboxed, every kind of missing as None."""
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
