"""Commands that show what came out: `harness report`, `ui`, `predict`, `score`."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, Plugins, Preset, Root, Seeds
from harness.cli.parse import command_line, make_config, make_plan, print_problems, print_reports
from harness.common import collector
from harness.common.console import out
from harness.common.errors import UnfitError, UsageError
from harness.config.settings import resolve

log = logging.getLogger(__name__)


def report(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT|KEY=VALUE",
            help="Experiments, by name or path of a .py file, and configuration",
            autocompletion=completion.experiments_and_keys,
        ),
    ] = None,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write the page, tables and figures to this folder")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Write the page and open it in a browser")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the reports in the output directory instead")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Print an experiment's table from MLflow, or from the output directory if there is no store.

    --open shows the whole report in a browser.

    Give the arguments that `run` was given. Rows are looked up in the store by fingerprint, so neither the output
    directory nor torch is needed; rows that are not in the store are shown as missing.

    \b
    harness report ablation_ensemble --json
    harness report --list
    MLFLOW_TRACKING_URI=http://HOST:5000 harness report ablation_ensemble --preset paper --out tables
    """
    if listing:
        list_reports(Path(resolve(root=root and str(root)).root), as_json)
        return
    if not experiments:
        raise UsageError(
            "which experiment? `harness list experiments` lists them, `harness report --list` lists reports"
        )
    planned, settings = make_plan(experiments, seeds, preset, root, plugins)
    from harness.tracking.client import Tracking

    if show and folder is None:
        folder = planned.root / "review"
    store = Tracking(settings.tracking_uri, settings.prefix).database
    if store is not None and not store.exists():
        from harness.launch import report_from_root

        reviews = report_from_root.look_up(planned, command_line(), store, folder)
        log.info(f"{store}: no such database; this report is made from the files in {planned.root}")
    else:
        from harness.tracking import report_from_mlflow

        reviews = report_from_mlflow.look_up(planned, command_line(), settings.tracking_uri, settings.prefix, folder)
    if folder is not None:
        from harness.report.folder import write_report
        from harness.tracking import ui

        for review in reviews:
            target = folder / review.context.experiment
            paths = write_report(review.report, review.rows, review.context, target)
            log.info("written: " + ", ".join(map(str, paths)))
            if show:
                ui.open_page(paths[-1])
    print_reports(reviews, as_json)
    if all(result.status == "missing" for review in reviews for result in review.results):
        from harness.report.listing import list_all

        if list_all(planned.root):
            log.info(
                "no row is in the store: `harness report --list` prints the arguments of what was run; "
                "`harness run` with these arguments reuses what is done"
            )


def list_reports(output_dir: Path, as_json: bool) -> None:
    """Print one line a report of the output directory, the newest first."""
    from harness.report.listing import list_all

    reports = list_all(output_dir)
    if as_json:
        out(json.dumps([report.json for report in reports], indent=1))
        return
    for report in reports:
        out(report.line)
    if not reports:
        log.info(f"no reports in {output_dir / 'reports'}")


def ui(
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="Experiment to open  [default: the most recent]")
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="Port to listen on; if taken, the next free one")] = 5000,
    browse: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser")] = True,
) -> None:
    """Open MLflow at the results table: the paper's number, ours and the gain.

    Starts a server on this machine only; Ctrl-C stops it. If the store is a remote server, only its link is printed.

    \b
    harness ui
    harness ui ablation_ensemble --port 5050 --no-browser
    """
    from harness.config import settings
    from harness.tracking import ui as service
    from harness.tracking.client import Tracking

    resolved = settings.resolve()
    service.serve(Tracking(resolved.tracking_uri, resolved.prefix), experiment, port, browse)


def predict(
    words: Annotated[
        list[str],
        typer.Argument(metavar="CHECKPOINT... VIDEO|FRAMES", help="Directories of finished trainings, then the video"),
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for masks and overlay  [default: SOURCE_masks]")
    ] = None,
    stage: Annotated[
        int, typer.Option(metavar="N", help="Number of extra stages, each with the previous mask as P (Table 2)")
    ] = 0,
) -> None:
    """Predict masks and an overlay for your own video.

    A CHECKPOINT is the directory of a finished training, runs/jobs/FINGERPRINT; several form an ensemble. Repeating
    the command continues where it stopped. FRAMES is a folder of images; a video needs the extra `video` (ffmpeg).

    \b
    harness predict runs/jobs/0123456789abcdef street.mp4
    harness predict runs/jobs/A runs/jobs/B frames/ --stage 1 --out seen
    """
    if len(words) < 2:
        raise UsageError(
            "harness predict CHECKPOINT... VIDEO|FRAMES: give training directories, then the video or frames"
        )
    from harness.common.progress import Progress
    from harness.tools.predict import predict as work

    collector.imported()
    *checkpoints, source = map(Path, words)
    target = folder or source.resolve().with_name(f"{source.resolve().stem}_masks")
    with Progress() as progress:
        done = work(checkpoints, source, target, stage, progress)
    out(f"{done.frames} frames processed ({done.new} new): masks in {done.folder / 'masks'}, overlay {done.overlay}")
    if done.replaced:
        log.info(f"{done.replaced} masks of removed or changed frames were moved to {done.folder / 'replaced'}")
    if done.cut:
        raise UnfitError(f"{done.cut}; the frames before it were predicted")


def score(
    masks: Annotated[
        Path,
        typer.Argument(metavar="MASKS", help="Folder with VIDEO/FRAME.png; or its .zip, for a split without labels"),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="For example data.vspw.root=DIR")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the row  [required]")] = "",
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Split that the masks belong to")] = "val",
    preset: Preset = None,
    root: Root = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Score a folder of third-party masks with the official metrics.

    The folder holds VIDEO/FRAME.png for every frame of the split, with one class index per pixel, counted from 0. The
    score becomes an extra row in every table made from the same data. Identical masks are scored once. On a split
    without labels, the command checks whether the challenge's server would accept the masks.

    \b
    harness score MASKS --name CFFM --preset paper data.vspw.root=DIR
    """
    from harness.common.progress import Progress
    from harness.results import score as scoring
    from harness.results import submission
    from harness.results.records import read_evaluation

    config, settings = make_config(overrides or [], preset, root, plugins)
    if submission.unlabelled(config, split):
        with Progress() as progress:
            problems = submission.check(masks, config, split, progress)
        print_problems(masks, split, problems, as_json)
        return
    with Progress() as progress:
        directory = scoring.score(masks, name, config, Path(settings.root), split, progress)
    final = read_evaluation(directory).final
    if as_json:
        out(json.dumps({"schema": 1, "name": name, "split": split, "fingerprint": directory.name, **final}, indent=1))
        return
    out(f"{name} on {split}: " + "  ".join(f"{key} {value:.2f}" for key, value in final.items()))
    log.info(f"saved in {directory}; the next `harness run` or `harness report` on this data shows it as a row")
