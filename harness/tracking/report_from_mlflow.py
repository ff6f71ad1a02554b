"""A report from MLflow alone: the plan's cells are looked up by fingerprint; neither torch nor the root is needed."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.common.errors import UnfitError
from harness.config import input_digests
from harness.config.compose import Config
from harness.plan.cell import Cell
from harness.plan.plan import Experiment, Plan
from harness.report.evidence import EVIDENCE, read_evidence
from harness.report.review import Review
from harness.results import records, rows, score
from harness.results.evidence import Evidence
from harness.tracking import tags, view
from harness.tracking.client import FINGERPRINT, PARENT, SCORE, Tracking
from harness.tracking.runs import Found

RECIPE = "harness.recipe"  # the fingerprint without content digests
VERSIONS = "harness.version."


def look_up(
    plan: Plan, command: Sequence[str], uri: str | None = None, prefix: str = "", folder: Path | None = None
) -> list[Review]:
    """Return every experiment of a plan. Raise UnfitError where the store does not answer.

    What its run has left to be shown, panels among it, is copied into FOLDER/EXPERIMENT where a folder is given.

    Where the data is not at hand, cells are found by their recipe: the newest run of the same configuration.
    """
    tracking = Tracking(uri, prefix)
    tracking.check()
    blind = bool(plan.config.content.missing)
    reviews = []
    for experiment in plan.experiments:
        names = [cell.job.config_hash if blind else cell.job.fingerprint for _, cell in experiment.cells]
        runs = tracking.find(experiment.name, names, RECIPE if blind else FINGERPRINT)
        shown = fetch(tracking, runs.values(), None if folder is None else folder / experiment.name)
        cells = [
            rows.result(experiment, order, seed, cell, **read(tracking, experiment, cell, runs.get(name), shown))
            for order, ((seed, cell), name) in enumerate(zip(experiment.cells, names, strict=True))
        ]
        results = [*cells, *score.rows(experiment, scores(tracking, plan, experiment, runs.values()))]
        context = rows.context(experiment, command, shown, view.pages(tracking, experiment.name))
        reviews.append(Review(experiment, results, context))
    return reviews


def scores(
    tracking: Tracking, plan: Plan, experiment: Experiment, runs: Iterable[Found]
) -> list[tuple[str, records.RunRecord]]:
    """Return scores of other people's masks by name: those of the plan's run, and those under the root alone."""
    cell = of_plan(runs)
    children = [] if cell is None else tracking.children(cell.experiment_id, cell.tags[PARENT], SCORE)
    stored = {
        run.params["method"]: unpack(tracking, run, experiment.config) for run in children if run.status == "FINISHED"
    }
    return sorted({**stored, **dict(score.scores(plan.root, experiment.config))}.items())


def of_plan(runs: Iterable[Found]) -> Found | None:
    """Return the newest cell that belongs to a plan's run."""
    return next((run for run in runs if PARENT in run.tags), None)


def unpack(tracking: Tracking, run: Found, config: Config) -> records.RunRecord:
    """Return a run's counts, with the configuration's metrics. Raise UnfitError if it holds none."""
    with TemporaryDirectory() as folder:
        data = tracking.download(run.run_id, "matrices.npz", Path(folder)).read_bytes()
    return records.unpacked(data, run.run_id, records.chosen(config))


def fetch(tracking: Tracking, runs: Iterable[Found], folder: Path | None) -> Evidence:
    """Return the evidence of the run that holds the newest cell; none where it has none. Panels go into a folder."""
    cell = of_plan(runs)
    if cell is None:
        return Evidence()
    parent = cell.tags[PARENT]
    try:
        with TemporaryDirectory() as folder_name:
            evidence = read_evidence(tracking.download(parent, f"report/{EVIDENCE}", Path(folder_name)))
            if evidence.panels and folder is not None:
                pictures = tracking.download(parent, "report/panels", Path(folder_name))
                shutil.copytree(pictures, folder / "panels", dirs_exist_ok=True)
    except UnfitError:  # told by an older harness
        return Evidence()
    return evidence


def read(tracking: Tracking, experiment: Experiment, cell: Cell, run: Found | None, shown: Evidence) -> dict[str, Any]:
    """Return a cell's status and numbers by MLflow: its tags, one confusion matrix a video, or why it is not done."""
    if cell.skip is not None:
        return {"status": "missing", "reason": cell.skip}
    if run is None:
        return dict(shown.undone.get(cell.job.config_hash, {"status": "missing", "reason": "not in MLflow"}))
    record = unpack(tracking, run, cell.job.config)
    if not record.labelled:
        return {
            "status": "unlabelled",
            "reason": f"masks of {len(record.videos)} videos, in the output directory of its run",
        }
    unit_of = input_digests.units(experiment.config, record.videos)
    return {
        "status": "done",
        "miou": record.final["miou"],
        "metrics": record.final,
        "moved": record.moved,
        "exited": record.exited,
        "run_id": run.run_id,
        "units": len(set(unit_of.values())),
        "videos": record.videos,
        "unit_of": unit_of,
        "totals": record.totals(unit_of),
        "commit": tags.value(run.tags, tags.COMMIT),
        "dirty": {"True": True, "False": False}.get(run.tags.get("harness.dirty", "")),
        "device": tags.value(run.tags, tags.DEVICE),
        "changed": shown.changed.get(cell.job.config_hash),
        "versions": {key.removeprefix(VERSIONS): value for key, value in run.tags.items() if key.startswith(VERSIONS)},
    }
