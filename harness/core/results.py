"""The results frame: one row per (cell, seed), tidy; and what is said of a cell over its seeds.

mIoU and gains are in percent. A cell that has no number keeps its row, with a status and a reason.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pandas as pd

from harness.core import paper
from harness.core.plan import Experiment, setting
from harness.core.spec import Cell

SCHEMA = 1  # of rows_json
STATUSES = ("failed", "running", "missing", "done")  # a cell of several seeds has the first of these that one has


@dataclass(frozen=True)
class CellResult:
    """What one cell's job came to for one seed; everything after `seed` may be unknown."""

    experiment: str
    cell: str
    label: str  # the row's name in a table
    seed: int
    status: str = "missing"  # done | missing | failed | running
    reason: str | None = None  # why it is not done
    method: str | None = None
    backbone: str | None = None
    epochs: int | None = None
    fingerprint: str | None = None
    miou: float | None = None  # percent
    run_id: str | None = None
    units: int | None = None  # what mIoU was taken over: videos, or recordings
    order: int = 0  # of the cell in its experiment
    baseline: str | None = None  # the cell that the gain is over
    commit: str | None = None
    dirty: bool | None = None
    device: str | None = None
    precision: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    changed: str | None = None  # a source file that is no longer what the job ran with

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
    link: str = ""  # where the runs are

    @property
    def reason(self) -> str | None:
        """The reasons in one line; None where there are none."""
        return "; ".join(self.reasons) or None


def result(experiment: Experiment, order: int, seed: int, cell: Cell, **found: Any) -> CellResult:
    """A cell of a plan with what was found of it: what the plan alone says is filled in here."""
    facts = setting(experiment.config)
    return CellResult(
        experiment=experiment.name,
        cell=cell.name,
        label=cell.method,
        seed=seed,
        method=cell.method,
        backbone=paper.backbone(facts["encoder"]),
        epochs=facts["epochs"],
        fingerprint=cell.job.fingerprint,
        order=order,
        baseline=cell.over,
        precision=facts["precision"],
        **found,
    )


def context(experiment: Experiment, command: Sequence[str]) -> Context:
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
        command=" ".join(command),
    )


COLUMNS = (*(f.name for f in fields(CellResult)), "paper_miou", "paper_gain")
RUN = ("seed", "status", "reason", "fingerprint", "miou", "run_id", "units")
PROVENANCE = ("commit", "dirty", "device", "precision", "versions", "changed")
ROW = (  # with "runs": the row of rows_json
    *("cell", "status", "reason", "seeds", "units", "miou", "low", "high"),
    *("gain", "gain_low", "gain_high", "paper_miou", "paper_gain", "verdict"),
)
NUMBERS = ("miou", "paper_miou", "paper_gain")
COUNTS = ("seed", "epochs", "units", "order")
SUMMARY = (
    *("experiment", "cell", "label", "method", "backbone", "epochs", "order", "baseline", "status", "reason"),
    *("planned", "seeds", "units", "miou", "sd", "low", "high"),
    *("gain", "gain_sd", "gain_seeds", "gain_low", "gain_high"),
    *("paper_miou", "paper_gain", "verdict", "changed"),
)


def build(results: Iterable[CellResult]) -> pd.DataFrame:
    """The results frame (COLUMNS) with the paper's numbers joined on (experiment, cell), in the order of the cells.

    Raises ValueError where a cell's seed stands twice.
    """
    records = []
    for result in results:
        known = paper.published(result.experiment, result.cell)
        joined = {"paper_miou": known.miou if known else None, "paper_gain": known.gain if known else None}
        records.append({**asdict(result), **joined})
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


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell (SUMMARY): mean and sample standard deviation over the seeds that are done, gain paired by seed.

    low, high, gain_low, gain_high and verdict are null: nothing here knows of noise yet.
    """
    rows = [_summary_row(frame, cell) for _, cell in frame.groupby(["experiment", "cell"], sort=False)]
    return pd.DataFrame(rows, columns=list(SUMMARY), dtype=object)


def _summary_row(frame: pd.DataFrame, cell: pd.DataFrame) -> dict[str, Any]:
    first = cell.iloc[0]
    done = cell[cell["status"] == "done"]
    gains = _gains(frame, done, first)
    units = done["units"].dropna()
    kept = ("experiment", "cell", "label", "method", "backbone", "epochs", "order", "baseline")
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
        "gain": null(gains.mean()),
        "gain_sd": null(gains.std()),
        "gain_seeds": len(gains),
        "changed": ", ".join(changed) or None,
    }


def _gains(frame: pd.DataFrame, done: pd.DataFrame, first: pd.Series) -> pd.Series:
    """Differences to the baseline, one a seed that both have done."""
    over = frame[(frame["experiment"] == first["experiment"]) & (frame["cell"] == null(first["baseline"]))]
    base = over[over["status"] == "done"].set_index("seed")["miou"]
    return (done.set_index("seed")["miou"] - base).dropna()


def _reason(cell: pd.DataFrame) -> str | None:
    """Why seeds are not done: once where it is the same for all, else seed by seed."""
    undone = cell[cell["status"] != "done"]
    texts = [null(row["reason"]) or row["status"] for _, row in undone.iterrows()]
    if not texts:
        return None
    if len(texts) == len(cell) and len(set(texts)) == 1:
        return null(undone.iloc[0]["reason"])
    return "; ".join(f"seed {seed}: {text}" for seed, text in zip(undone["seed"], texts, strict=True))


def rows_json(frame: pd.DataFrame, contexts: Iterable[Context]) -> dict[str, Any]:
    """What `report --json` prints (design §5): null where a number is not known, never NaN; `seeds` counts the done."""
    return {"schema": SCHEMA, "experiments": [_experiment_json(frame, context) for context in contexts]}


def _experiment_json(frame: pd.DataFrame, context: Context) -> dict[str, Any]:
    own = frame[frame["experiment"] == context.experiment]
    rows = []
    for _, row in summary(own).iterrows():
        runs = own[own["cell"] == row["cell"]]
        listed = [{key: null(run[key]) for key in (*RUN, *PROVENANCE)} for _, run in runs.iterrows()]
        rows.append({**{key: null(row[key]) for key in ROW}, "runs": listed})
    head = {"experiment": context.experiment, "preset": context.preset, "dataset": context.dataset}
    return {**head, "comparable": context.comparable, "reason": context.reason, "rows": rows}


def null(value: Any) -> Any:
    """A frame's value as plain Python: numbers unboxed, every kind of missing as None."""
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
