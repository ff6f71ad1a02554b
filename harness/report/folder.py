"""A report's folder: tables, figures, panels, the page, and the evidence that a reviewer makes the same page from."""

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.common.atomic_files import temporary
from harness.common.redaction import redact
from harness.plan.plan import Experiment, Plan
from harness.report import figure_stamp, html_report, qualitative
from harness.report.evidence import EVIDENCE, gather
from harness.results import table
from harness.results.evidence import Evidence
from harness.results.rows import CellResult, Context, Row
from harness.results.table import Report

log = logging.getLogger(__name__)


def collect_evidence(
    plan: Plan, experiment: Experiment, cells: Sequence[CellResult], command: Sequence[str], folder: Path
) -> Evidence:
    """Return what the root shows beside an experiment's `cells`, in the plan's order; panels are drawn into the folder.

    Raise OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = qualitative.save(qualitative.draw(plan, experiment), folder / "panels")
    config_hashes = [cell.job.config_hash for _, cell in experiment.cells]
    evidence = replace(
        gather(plan, experiment, command),
        panels=tuple(pictures),
        undone={
            config_hash: {"status": cell.status, "reason": redact(cell.reason) if cell.reason else None}
            for config_hash, cell in zip(config_hashes, cells, strict=True)
            if cell.status != "done"
        },
        changed={
            config_hash: cell.changed for config_hash, cell in zip(config_hashes, cells, strict=True) if cell.changed
        },
    )
    (folder / EVIDENCE).write_text(json.dumps(evidence.to_json(), allow_nan=False), encoding="utf-8")
    return evidence


def write_report(report: Report, rows: Sequence[Row], context: Context, folder: Path) -> list[Path]:
    """Write tables, figures where they are not there as they are, and the page; return their paths, the page last.

    Raise OSError.
    """
    inputs = figure_stamp.inputs(report, rows, context)
    files = table.figure_files(report, context.svg)
    drawn = figure_stamp.current(files, inputs, folder)
    paths = table.write(report, folder, draw=not drawn, svg=context.svg)
    if not drawn:
        figure_stamp.keep(files, inputs, folder)
    return [*paths, html_report.write(report, rows, context, folder)]


def point(latest: Path, folder: Path) -> Path:
    """Let `latest`, the experiment's name among the reports, lead to the folder of the plan that was reported last.

    Return `latest`, or the folder itself where the file system has no links. A folder named `latest`, as 0.1 wrote
    it, is kept beside those of plans.
    """
    link = temporary(latest)
    try:
        link.symlink_to(folder.relative_to(latest.parent), target_is_directory=True)
        if latest.is_dir() and not latest.is_symlink():
            latest.rename(free(folder.parent / f"{latest.name}-0.1"))
        link.replace(latest)
    except OSError as error:
        log.warning(f"{latest}: could not be linked to {folder.name} ({error.strerror}); the report is in {folder}")
        return folder
    return latest


def free(path: Path) -> Path:
    """Return the path, numbered where something is there already."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())
