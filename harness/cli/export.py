"""`harness export`: what was made here, in the forms of other tools."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.options import Plugins, Preset, Root, Seeds
from harness.cli.parse import make_plan
from harness.common.errors import UsageError
from harness.config import settings
from harness.jobdir.paths import OutputDir

log = logging.getLogger(__name__)

CURVES = "curves"

What = Annotated[str, typer.Argument(metavar="curves", help="What to export: curves, the metrics of trainings by step")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT|KEY=VALUE",
        help="Of which plan, as for `run`; without one, of all trainings under --root",
        autocompletion=completion.of_kinds("experiments"),
    ),
]


def export(
    what: What,
    words: Words = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A line a point")] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of events a training")] = None,
    wandb: Annotated[
        Path | None, typer.Option("--wandb-offline", metavar="DIR", help="A run a training, to be sent by `wandb sync`")
    ] = None,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    plugins: Plugins = None,
) -> None:
    """Export curves to other tools, from the journals alone.

    \b
    harness export curves --csv curves.csv                          of all trainings under the root
    harness export curves ablation_ensemble --tensorboard logs      of those of a plan
    harness export curves --wandb-offline wandb && wandb sync wandb/wandb/offline-run-*

    Points are those that MLflow has: each step once, however often a training was resumed.
    """
    if what != CURVES:
        raise UsageError(f"export {what}: only '{CURVES}' can be exported")
    targets = {"--csv": csv, "--tensorboard": tensorboard, "--wandb-offline": wandb}
    if not any(targets.values()):
        raise UsageError(f"say where to: {', '.join(targets)}")
    from harness.tools import export_curves

    if words:
        plan, _ = make_plan(words, seeds, preset, root, plugins, compute=False)
        folders = [plan.jobdir(job) for job in plan.jobs]
    else:
        folders = list(OutputDir(Path(settings.resolve(root=root and str(root)).root)).job_dirs())
    curves = export_curves.read(folders)
    if csv is not None:
        export_curves.to_csv(curves, csv)
    if tensorboard is not None:
        export_curves.to_tensorboard(curves, tensorboard)
    if wandb is not None:
        export_curves.to_wandb(curves, wandb)
    number = sum(len(training.points) for training in curves)
    places = ", ".join(str(path) for path in targets.values() if path is not None)
    log.info(f"{number} points of {len(curves)} training(s): {places}")
