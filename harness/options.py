"""Arguments and flags that several commands share, and the one way to speak to people."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Names = Annotated[
    list[str],
    typer.Argument(help="Experiments by name or path of a .py file, then key=value, for example train.epochs=3"),
]
Preset = Annotated[str | None, typer.Option(help="demo (built in), camvid, paper, authors, or the path of a .yaml")]
Root = Annotated[Path | None, typer.Option(help="Where jobs leave what they make  [built in: runs]")]
Seeds = Annotated[int, typer.Option(help="Number of seeds, from `seed` on")]
Plugins = Annotated[list[Path] | None, typer.Option(help="A folder of your own plug-ins (FOLDER/decoders/mine.py, …)")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, everything else on stderr")]
PREEMPTED = 75


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)
