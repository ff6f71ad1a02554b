"""A report's folder: tables, figures, panels, the page, and the evidence that a reviewer makes the same page from."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from harness import page, panels
from harness.core import table
from harness.core.evidence import Evidence
from harness.core.plan import Experiment, Plan
from harness.core.results import Context
from harness.core.table import Report
from harness.gather import gather

EVIDENCE = "evidence.json"


def collect(plan: Plan, experiment: Experiment, command: Sequence[str], folder: Path) -> Evidence:
    """What the root has to show of an experiment; its panels are drawn into the report's folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = gather(plan, experiment, command)
    drawn = panels.save(panels.draw(plan, experiment), folder / "panels")
    found = replace(found, panels=tuple(drawn))
    (folder / EVIDENCE).write_text(json.dumps(found.to_json(), allow_nan=False), encoding="utf-8")
    return found


def write(report: Report, frame: pd.DataFrame, context: Context, folder: Path) -> list[Path]:
    """Tables, figures and the page; returns their paths, the page last. Raises OSError."""
    paths = table.write(report, folder)
    return [*paths, page.write(report, frame, context, folder)]


def read_evidence(path: Path) -> Evidence:
    """Evidence from a file; none where it is absent or was written by another version."""
    try:
        return Evidence.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return Evidence()
