"""What an output directory's files say of a plan's cells."""

from collections.abc import Mapping

from harness.common.atomic_files import JsonObject
from harness.config import input_digests
from harness.plan import data_changes, source_changes
from harness.plan.cell import Cell
from harness.plan.job import Job
from harness.plan.plan import Plan
from harness.results import records, submission


def read(plan: Plan, cell: Cell, failures: Mapping[Job, str]) -> JsonObject:
    """Return a cell's status, with its reason or its numbers: `rows.result` takes them."""
    directory = plan.directory(cell.job)
    if cell.skip is not None:
        return {"status": "missing", "reason": cell.skip}
    if plan.state(cell.job) == "done":
        record = records.read_evaluation(directory, records.chosen(cell.job.config))
        if not record.labelled:
            return {"status": "unlabelled", "reason": submission.of_cell(plan, cell)}
        provenance = records.joined(
            [*(records.provenance(plan.directory(job)) for job in cell.job.inputs), record.provenance]
        )
        unit_of = input_digests.units(cell.job.config, record.videos)
        facts = {key: provenance.get(key) for key in ("commit", "dirty", "device")}
        return {
            "status": "done",
            "miou": record.final["miou"],
            "metrics": record.final,
            "units": len(set(unit_of.values())),
            "videos": record.videos,
            "unit_of": unit_of,
            "totals": record.totals(unit_of),
            "moved": record.moved,
            "exited": record.exited,
            "versions": provenance.get("versions") or {},
            "changed": ", ".join(changed(plan, cell)) or None,
            **facts,
        }
    if cell.job in failures:
        return {"status": "failed", "reason": failures[cell.job]}
    why = data_changes.changed(plan, cell.job, data_changes.finished(plan)) if plan.config.content.manifests else ""
    outcome = plan.jobdir(cell.job).outcome()
    reason = (outcome and outcome.reason) or (f"data changed: {why}" if why else "not run yet")
    return {"status": "missing", "reason": reason}


def changed(plan: Plan, cell: Cell) -> list[str]:
    """Return the sources of a cell's evaluation and trainings that are no longer what they ran with."""
    return sorted({name for job in [*cell.job.inputs, cell.job] for name in source_changes.changed(plan, job)})
