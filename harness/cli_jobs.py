"""Commands on jobs that are at work or over: what runs and what died (`status`), what MLflow lacks (`sync`)."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.core import settings
from harness.options import Json, Root, say

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
        print(json.dumps(status.as_json(found), indent=1))
        return
    for line in status.lines(found):
        print(line)
    if not found:
        say(f"no job under {place} is at work or ended within a day; --all shows older ones")
