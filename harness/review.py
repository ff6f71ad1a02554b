"""A report from MLflow alone: the plan's cells are looked up by fingerprint; neither torch nor the root is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.core import paper, plugins, results
from harness.core.plan import Experiment, Plan, setting
from harness.core.results import CellResult, Context
from harness.core.spec import Cell
from harness.core.table import Report
from harness.store.tracking import FINGERPRINT, Found, Tracking

RECIPE = "harness.recipe"  # the fingerprint without content digests


@dataclass(frozen=True)
class Review:
    """One experiment as MLflow knows it."""

    frame: pd.DataFrame
    context: Context
    report: Report


def look_up(plan: Plan, command: Sequence[str]) -> list[Review]:
    """Every experiment of a plan. Raises UnfitError where the store does not answer.

    Where the data is not at hand, cells are found by their recipe: the newest run of the same configuration.
    """
    tracking = Tracking()
    tracking.connect()
    blind = bool(plan.config.content.missing)
    reviews = []
    for experiment in plan.experiments:
        names = [cell.job.recipe if blind else cell.job.fingerprint for _, cell in experiment.cells]
        found = tracking.find(experiment.name, names, RECIPE if blind else FINGERPRINT)
        frame = results.build(
            result(experiment, order, seed, cell, found.get(name))
            for order, ((seed, cell), name) in enumerate(zip(experiment.cells, names, strict=True))
        )
        context = describe(experiment, command)
        module = plugins.load("reports", experiment.report, experiment.config.folders)
        reviews.append(Review(frame, context, module.render(frame, context)))
    return reviews


def describe(experiment: Experiment, command: Sequence[str]) -> Context:
    """What a report says around its numbers."""
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


def result(experiment: Experiment, order: int, seed: int, cell: Cell, run: Found | None) -> CellResult:
    """One row of the results frame, from a cell's run."""
    facts = setting(experiment.config)
    tags = run.tags if run is not None else {}
    versions = {key.removeprefix("harness.version."): v for key, v in tags.items() if key.startswith("harness.version.")}
    done = run is not None and "final/miou" in run.metrics
    return CellResult(
        experiment=experiment.name,
        cell=cell.name,
        label=cell.method,
        seed=seed,
        status="done" if done else "missing",
        reason=None if done else "not in MLflow",
        method=cell.method,
        backbone=paper.backbone(facts["encoder"]),
        epochs=facts["epochs"],
        fingerprint=cell.job.fingerprint,
        miou=run.metrics["final/miou"] if run is not None and done else None,
        run_id=run.run_id if run is not None and done else None,
        units=int(tags["harness.units"]) if "harness.units" in tags else None,
        order=order,
        baseline=cell.over,
        commit=tags.get("harness.commit"),
        dirty={"True": True, "False": False}.get(tags.get("harness.dirty", "")),
        device=tags.get("harness.device"),
        precision=facts["precision"],
        versions=versions,
    )
