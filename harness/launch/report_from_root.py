"""A report from the files of an output directory, where there is no store; writes only to a folder that is given."""

from collections.abc import Sequence
from pathlib import Path

from harness.common.errors import UnfitError
from harness.plan.plan import Experiment, Plan
from harness.report.evidence import gather
from harness.report.review import Review
from harness.results import rows, score
from harness.results.cells import read


def look_up(plan: Plan, command: Sequence[str], store: Path, folder: Path | None = None) -> list[Review]:
    """Return every experiment of a plan. Raise UnfitError where the root has nothing either."""
    if not plan.output.jobs.is_dir():
        raise UnfitError(
            f"{store}: no such database, and {plan.root} has no results: set MLFLOW_TRACKING_URI to the store, or "
            "give --root DIR of the runs"
        )
    return [review(plan, experiment, command, folder) for experiment in plan.experiments]


def review(plan: Plan, experiment: Experiment, command: Sequence[str], folder: Path | None) -> Review:
    """Return an experiment as the root has it; panels are drawn into FOLDER/EXPERIMENT where a folder is given."""
    cells = [
        rows.result(experiment, order, seed, cell, **read(plan, cell, {}))
        for order, (seed, cell) in enumerate(experiment.cells)
    ]
    results = [*cells, *score.rows(experiment, score.scores(plan.root, experiment.config))]
    if folder is None:
        evidence = gather(plan, experiment, command)
    else:
        from harness.report.folder import collect_evidence

        evidence = collect_evidence(plan, experiment, cells, command, folder / experiment.name)
    return Review(experiment, results, rows.context(experiment, command, evidence, ""))
