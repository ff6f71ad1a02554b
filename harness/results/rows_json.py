"""Rows as JSON: what `harness report --json` prints."""

from collections.abc import Iterable, Sequence

from harness.results import measures
from harness.results.means import null
from harness.results.rows import ClaimResult, Context, Row, claims

SCHEMA = 1
RUN = ("seed", "status", "reason", "fingerprint", "miou", "metrics", "run_id", "units")
PROVENANCE = ("commit", "dirty", "device", "precision", "versions", "changed")
ROW = (  # with "runs": the row of rows_json
    *("cell", "status", "reason", "seeds", "units", "miou", "low", "high"),
    *("gain", "gain_low", "gain_high", "paper_miou", "paper_gain", "verdict"),
    *("interval_of", "sd_seeds", "sd_units", "gain_interval_of", "gain_sd_seeds", "gain_sd_units"),
)


def rows_json(tables: Iterable[tuple[Sequence[Row], Context]]) -> dict[str, object]:
    """Return what `report --json` prints: null where a number is not known, never NaN; `seeds` counts the done.

    A row's `reason` is why it is not done, or for a done one why it has no interval.
    """
    return {"schema": SCHEMA, "experiments": [experiment_json(rows, context) for rows, context in tables]}


def experiment_json(rows: Sequence[Row], context: Context) -> dict[str, object]:
    """Return one experiment of `rows_json`."""
    head = {"experiment": context.experiment, "preset": context.preset, "dataset": context.dataset}
    listed = [
        {
            **row.values(ROW),
            "reason": row.reason or row.no_interval,
            "metrics": measures.as_json(row, context.margin),
            "cost": vars(context.cost(row)),
            "runs": [{key: null(getattr(run, key)) for key in (*RUN, *PROVENANCE)} for run in row.runs],
        }
        for row in rows
    ]
    answers = [_claim_json(answer) for answer in claims(rows)]
    return {**head, "comparable": context.comparable, "reason": context.reason, "rows": listed, "claims": answers}


def _claim_json(answer: ClaimResult) -> dict[str, object]:
    claim, ours = answer.claim, answer.ours
    theirs = {"cell": claim.cell, "over": claim.baseline, "paper_gain": claim.gain, "source": claim.source}
    mine = {"gain": null(ours.mean), "gain_low": null(ours.interval.low), "gain_high": null(ours.interval.high)}
    noise = {"interval_of": ours.interval.of, "sd_seeds": ours.interval.sd_seeds, "sd_units": ours.interval.sd_units}
    return {**theirs, **mine, **noise, "verdict": answer.verdict, "reason": answer.reason}
