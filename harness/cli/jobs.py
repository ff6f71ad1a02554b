"""Commands on jobs that are at work or over: `harness status`, `sync` with MLflow, `gc` of what nobody needs."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, Offline, Plugins, Preset, Root, Seeds
from harness.cli.parse import make_plan
from harness.common import collector
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
    str | None,
    typer.Option(metavar="NAME", help="Cancel a study of `harness search`, by default named after the search"),
]
Rehearsal = Annotated[bool, typer.Option("--rehearse", help="Cancel the dry run that `run --rehearse` started")]


def status(
    root: Root = None,
    everything: Annotated[bool, typer.Option("--all", help="Also show jobs that ended more than a day ago")] = False,
    as_json: Json = False,
) -> None:
    """Show jobs that are running, ended recently or died.

    Prints one line per job of the output directory: step, speed, time left, launcher, Slurm state.
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
        log.info(f"no job in {output_dir} is running or ended within the last day; --all shows older ones")


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
    """Cancel the running and waiting jobs of a plan, a study or a dry run, here and in Slurm; checkpoints are kept.

    Give the arguments that `run` was given; the same `run` continues later. Your own runs end as with Ctrl-C, and
    waiting Slurm jobs leave the queue. A run of another user, or on another machine, is asked to end by a file in the
    job's directory. A study needs its name alone, a rehearsal none: an output directory has one. All their processes
    are asked to end. Prints one line per job with the outcome.

    \b
    harness cancel ablation_ensemble --preset paper
    harness cancel --study momentum
    harness cancel --rehearse

    Exit codes: 0 none of the jobs is running or waiting any more; 1 some continue, and their lines say why.
    """
    if study is not None or rehearse:
        if experiments or (study is not None and rehearse):
            raise UsageError("name experiments, or give --study NAME, or --rehearse: one of them")
        if preset is not None or plugins or seeds != 1:
            raise UsageError("--preset, --seeds and --plugins select a plan; --study and --rehearse accept only --root")
        end_without_plan(Path(settings.resolve(root=root and str(root)).root), study, as_json)
        return
    plan, resolved = make_plan(experiments or [], seeds, preset, root, plugins, compute=False)
    from harness.launch import cancel as cancelling

    results = cancelling.Canceller(plan).run()
    show(results, f"no job of this plan is running or waiting in {plan.root}", as_json)
    if not offline and any(result.state == "cancelled" for result in results):  # whose runs nobody else ends
        from harness.launch.mlflow_sync import correct
        from harness.tracking.client import Tracking

        try:
            correct(plan, Tracking(resolved.tracking_uri, resolved.prefix))
        except UnfitError as error:
            log.warning(f"{error}; run `harness sync` later to update MLflow")
    if any(result.state == "left" for result in results):
        raise typer.Exit(1)


def end_without_plan(root: Path, study: str | None, as_json: bool) -> None:
    """Cancel a study, or without one the rehearsal of an output directory; exit 1 if something continues."""
    if study is None:
        from harness.launch.cancel import RehearsalCanceller

        results = RehearsalCanceller(root).run()
        show(results, f"no dry run is running or waiting in {root}", as_json)
    else:
        from harness.search.cancel import StudyCanceller

        results = StudyCanceller(root, study).run()
        show(
            results,
            f"no trial of '{study}' is running in {root}; workers between two trials were asked to end",
            as_json,
        )
    if any(result.state == "left" for result in results):
        raise typer.Exit(1)


def show(results: "list[Cancellation]", nothing: str, as_json: bool) -> None:
    """Print the outcome of a cancellation, one line per job."""
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
    follow: Annotated[bool, typer.Option("--follow", help="Keep uploading until no job is running or waiting")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Check everything again, ignoring notes of earlier uploads")
    ] = False,
    to: Annotated[str | None, typer.Option(help="URI of another store; set passwords in MLFLOW_TRACKING_…")] = None,
) -> None:
    """Upload the results of an output directory that MLflow lacks.

    Also closes runs whose process died. `--all --to URI` fills an empty store.
    """
    resolved = settings.resolve(root=root and str(root))
    output_dir = Path(resolved.root)
    if not OutputDir(output_dir).jobs.is_dir():
        raise UnfitError(f"{output_dir}: not an output directory of the harness; give yours with --root DIR")
    from harness.launch.mlflow_sync import Sync
    from harness.tracking.client import Tracking

    tracking = Tracking(to or resolved.tracking_uri, resolved.prefix)
    tracking.connect()
    collector.imported()
    uploads = Sync(output_dir, tracking, afresh=everything)
    if follow:
        uploads.follow()
    else:
        uploads.once()
    left = f"; {len(uploads.refused)} plan(s) left out" if uploads.refused else ""
    log.info(f"{len(uploads.publishers)} plan(s) of {output_dir} uploaded to {redact(tracking.uri)}{left}")


def gc(
    root: Root = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete the listed files")] = False,
    as_json: Json = False,
) -> None:
    """List files that are no longer needed; --yes deletes them.

    These are jobs that no plan of this output directory refers to, and leftovers of dead processes.

    Every plan that was run or searched is saved in ROOT/plans. Delete its file there to list what only that plan
    refers to. Files of a job that is running are never listed or deleted.
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
