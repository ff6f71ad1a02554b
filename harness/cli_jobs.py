"""Commands on jobs that are at work or over: what runs and what died (`status`), what MLflow lacks (`sync`)."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.core import settings
from harness.core.errors import UnfitError
from harness.core.redact import redact
from harness.core.voice import out, say
from harness.options import Json, Root

app = typer.Typer(rich_markup_mode=None)


@app.command("status")
def status_command(
    root: Root = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what ended more than a day ago")] = False,
    as_json: Json = False,
) -> None:
    """Show the root's live and recent jobs: step, rate, time to go, launcher, Slurm's queue; what died says so."""
    from harness import status

    place = Path(settings.resolve(root=root and str(root)).root)
    found = status.look(place, everything)
    if as_json:
        out(json.dumps(status.as_json(found), indent=1))
        return
    for line in status.lines(found):
        out(line)
    if not found:
        say(f"no job under {place} is at work or ended within a day; --all shows older ones")


@app.command("sync")
def sync_command(
    root: Root = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until nothing is at work or waiting")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Trust no note of what MLflow was told before")] = False,
    to: Annotated[str | None, typer.Option(help="Another store; passwords go into MLFLOW_TRACKING_…")] = None,
) -> None:
    """Tell MLflow what it lacks of a root, and close what is dead; `--all --to URI` fills an empty store."""
    found = settings.resolve(root=root and str(root))
    place = Path(found.root)
    if not (place / "jobs").is_dir():
        raise UnfitError(f"{place}: no root of the harness; give the one of your runs with --root DIR")
    from harness.store.tracking import Tracking
    from harness.sync import Sync

    tracking = Tracking(to or found.tracking_uri, found.prefix)
    tracking.connect()
    sync = Sync(place, tracking, say, afresh=everything)
    if follow:
        sync.follow()
    else:
        sync.once()
    left = f"; {len(sync.refused)} plan(s) left out" if sync.refused else ""
    say(f"{len(sync.publishers)} plan(s) of {place} told to {redact(tracking.uri)}{left}")
