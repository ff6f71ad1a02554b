"""`harness export`: results in forms for other tools and other people."""

import logging
from collections.abc import Sequence
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

CURVES, REPORT, MODEL = "curves", "report", "model"

What = Annotated[
    str,
    typer.Argument(
        metavar="curves|report|model",
        help="curves: the metrics of trainings by step; report: a folder to be published; model: a trained network",
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT|KEY=VALUE | CHECKPOINT FOLDER",
        help="The plan, as for `run`; `curves` without one exports all trainings under --root. For `model` the "
        "directory of a finished training, and where to",
        autocompletion=completion.of_kinds("experiments"),
    ),
]


def export(
    what: What,
    words: Words = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="curves: one line per point")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="curves: one folder of events per training")
    ] = None,
    wandb: Annotated[
        Path | None,
        typer.Option("--wandb-offline", metavar="DIR", help="curves: one run per training, to be sent by `wandb sync`"),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="report: the folder to write; it must be new or empty")
    ] = None,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    plugins: Plugins = None,
) -> None:
    """Export curves to other tools, a report as a folder to be published, or a trained network.

    \b
    harness export model runs/jobs/0123456789abcdef exported        torch.export, and ONNX if it is installed
    harness export curves --csv curves.csv                          all trainings under the root
    harness export curves ablation_ensemble --tensorboard logs      those of a plan
    harness export curves --wandb-offline wandb && wandb sync wandb/wandb/offline-run-*
    harness export report ablation_ensemble --out published         README.md, figures, configurations, logs

    Points are those that MLflow has: each step once, however often a training was resumed. A report is made from the
    output directory; its README.md shows figures and frames, and links each row to its configuration and its log.
    Paths and host names of this machine are left out. A network is one window of a frame, raw RGB in and
    probabilities out; each file is compared with it (docs/API.md).
    """
    if what not in (CURVES, REPORT, MODEL):
        raise UsageError(f"export {what}: '{CURVES}', '{REPORT}' or '{MODEL}' can be exported")
    if what == MODEL:
        export_network(words or [])
        return
    if what == REPORT:
        publish(words, seeds, preset, root, plugins, folder)
        return
    targets = {"--csv": csv, "--tensorboard": tensorboard, "--wandb-offline": wandb}
    if not any(targets.values()):
        raise UsageError(f"where to? give one of {', '.join(targets)}")
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


def export_network(words: Sequence[str]) -> None:
    """Export the network of a training's directory into a folder."""
    if len(words) != 2:
        raise UsageError("export model: give a finished training's directory (`harness plan` lists them) and a folder")
    from harness.tools import export_model

    training, folder = map(Path, words)
    for check in export_model.export(training, folder):
        log.info(
            f"{folder / check.file}: probabilities within {check.largest:.1e} of the network's, the same class in "
            f"{check.agreeing:.2%} of the pixels"
        )


def publish(
    words: list[str] | None,
    seeds: int,
    preset: str | None,
    root: Path | None,
    plugins: list[Path] | None,
    folder: Path | None,
) -> None:
    """Write a plan's report into a folder to be published."""
    if not words or folder is None:
        raise UsageError("which report, and where to? harness export report EXPERIMENT [KEY=VALUE ...] --out DIR")
    from harness.tools import export_report

    plan, _ = make_plan(words, seeds, preset, root, plugins, compute=False)
    log.info(f"written: {export_report.publish(plan, words, folder)}")
