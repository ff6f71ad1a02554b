"""Commands on jobs that are at work or over: `harness status`, `sync` with MLflow, `gc` of what nobody needs."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, Offline, Plugins, Preset, Root, Seeds
from harness.cli.parse import make_plan
from harness.common.console import out
from harness.common.errors import UnfitError, UsageError
from harness.common.redaction import redact
from harness.config import settings
from harness.jobdir.paths import OutputDir

if TYPE_CHECKING:
    from harness.launch.cancel import Cancellation

log = logging.getLogger(__name__)

Plans = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT|KEY=VALUE",
        help="The experiments and the configuration of the run",
        autocompletion=completion.experiments_and_keys,
    ),
]
Study = Annotated[
    str | None, typer.Option(metavar="NAME", help="End a study of `harness search`; its name is the search's at first")
]
Rehearsal = Annotated[bool, typer.Option("--rehearse", help="End what `run --rehearse` has begun")]


def status(
    root: Root = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what ended more than a day ago")] = False,
    as_json: Json = False,
) -> None:
    """Show what runs, what ran lately and what died.

    One line a job of the output directory: step, rate, time left, launcher, Slurm's queue.
    """
    from harness.launch import status as jobs

    output_dir = Path(settings.resolve(root=root and str(root)).root)
    statuses = jobs.look(output_dir, everything)
    if as_json:
        out(json.dumps(jobs.as_json(statuses), indent=1))
        return
    for line in jobs.lines(statuses):
        out(line)
    if not statuses:
        log.info(f"no job under {output_dir} is at work or ended within a day; --all shows older ones")


def cancel(
    experiments: Plans = None,
    study: Study = None,
    rehearse: Rehearsal = False,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    plugins: Plugins = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """End what is at work or waits of a plan, a study or a rehearsal, here and in Slurm, with its checkpoints.

    The words are those of `run`, which goes on from there. One's own runs are ended as by Ctrl-C, and Slurm jobs that
    wait leave the queue; a run of somebody else's, or on another machine, is asked by a file in the job's directory
    and ends in the same way. A study is named by --study alone, and all that are at it are asked to end; so is a
    rehearsal, of which there is one in an output directory. A line a job says what came of it, once it has.

    \b
    harness cancel ablation_ensemble --preset paper
    harness cancel --study momentum
    harness cancel --rehearse

    Exit codes: 0 nothing of it is at work or waits any more; 1 some of it goes on, and its line says why.
    """
    if study is not None or rehearse:
        if experiments or (study is not None and rehearse):
            raise UsageError("name experiments, or give --study NAME, or --rehearse: one of them")
        if preset is not None or plugins or seeds != 1:
            raise UsageError(
                "--preset, --seeds and --plugins say which plan; --study and --rehearse go with --root alone"
            )
        end_without_plan(Path(settings.resolve(root=root and str(root)).root), study, as_json)
        return
    plan, resolved = make_plan(experiments or [], seeds, preset, root, plugins, compute=False)
    from harness.launch import cancel as cancelling

    results = cancelling.Canceller(plan).run()
    show(results, f"nothing of this plan is at work or waits under {plan.root}", as_json)
    if not offline and any(result.state == "cancelled" for result in results):  # whose runs nobody else ends
        from harness.launch.mlflow_sync import correct
        from harness.tracking.client import Tracking

        try:
            correct(plan, Tracking(resolved.tracking_uri, resolved.prefix))
        except UnfitError as error:
            log.warning(f"{error}; `harness sync` tells it later")
    if any(result.state == "left" for result in results):
        raise typer.Exit(1)


def end_without_plan(root: Path, study: str | None, as_json: bool) -> None:
    """End a study, else the rehearsal of an output directory; exit 1 where something goes on."""
    if study is None:
        from harness.launch.cancel import RehearsalCanceller

        results = RehearsalCanceller(root).run()
        show(results, f"no rehearsal is at work or waits under {root}", as_json)
    else:
        from harness.search.cancel import StudyCanceller

        results = StudyCanceller(root, study).run()
        show(
            results,
            f"no trial of '{study}' is at work under {root}; what is at the study between two is asked",
            as_json,
        )
    if any(result.state == "left" for result in results):
        raise typer.Exit(1)


def show(results: "list[Cancellation]", nothing: str, as_json: bool) -> None:
    """Print what came of a cancellation, a line a job."""
    from harness.launch import cancel as cancelling

    if as_json:
        out(json.dumps(cancelling.as_json(results), indent=1))
    else:
        for line in cancelling.lines(results):
            out(line)
    if not results:
        log.info(nothing)


def sync(
    root: Root = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until nothing is at work or waiting")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Trust no note of what MLflow was told before")] = False,
    to: Annotated[str | None, typer.Option(help="Another store; passwords go into MLFLOW_TRACKING_…")] = None,
) -> None:
    """Upload to MLflow what it lacks of an output directory.

    What is dead is closed; `--all --to URI` fills an empty store.
    """
    resolved = settings.resolve(root=root and str(root))
    output_dir = Path(resolved.root)
    if not OutputDir(output_dir).jobs.is_dir():
        raise UnfitError(f"{output_dir}: no output directory of the harness; give yours with --root DIR")
    from harness.launch.mlflow_sync import Sync
    from harness.tracking.client import Tracking

    tracking = Tracking(to or resolved.tracking_uri, resolved.prefix)
    tracking.connect()
    uploads = Sync(output_dir, tracking, afresh=everything)
    if follow:
        uploads.follow()
    else:
        uploads.once()
    left = f"; {len(uploads.refused)} plan(s) left out" if uploads.refused else ""
    log.info(f"{len(uploads.publishers)} plan(s) of {output_dir} told to {redact(tracking.uri)}{left}")


def gc(
    root: Root = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed")] = False,
    as_json: Json = False,
) -> None:
    """List what nobody refers to any more; delete it on --yes.

    That is what no plan of this output directory names, and what dead processes left.

    A plan that was ever run or searched is noted in ROOT/plans; delete its file there, and what it alone refers to is
    listed. Nothing that a run is at work on is listed or deleted.
    """
    from harness.launch.status import rehearsing
    from harness.plan import gc

    output_dir = Path(settings.resolve(root=root and str(root)).root)
    items = gc.garbage(output_dir, rehearsing(output_dir) is not None)
    if as_json:
        out(json.dumps({"schema": 1, "items": [{**vars(item), "path": str(item.path)} for item in items]}, indent=1))
    else:
        for item in items:
            out(f"{item.bytes / 1e6:10.1f} MB  {item.path}  ({item.why})")
    total = sum(item.bytes for item in items)
    if yes:
        log.info(f"deleted: {gc.delete(output_dir, items) / 1e6:.1f} MB")
    else:
        number = f"{len(items)} item{'s' if len(items) > 1 else ''}"
        log.info(f"{number}, {total / 1e6:.1f} MB; --yes deletes them" if items else "nothing to delete")
