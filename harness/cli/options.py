"""Arguments and flags that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="EXPERIMENT|KEY=VALUE",
        help="Experiments by name or by the path of a .py file, and configuration, for example train.epochs=3",
        autocompletion=completion.experiments_and_keys,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="demo (built in), camvid, paper, authors, or the path of a .yaml",
        autocompletion=completion.presets,
    ),
]
Root = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Output directory: jobs, reports, logs  [built in: runs]")
]
Seeds = Annotated[int, typer.Option(metavar="N", help="Number of seeds, from `seed` on")]
Plugins = Annotated[
    list[Path] | None, typer.Option(metavar="DIR", help="A folder of your own plug-ins (DIR/decoders/mine.py, …)")
]
Offline = Annotated[bool, typer.Option("--offline", help="Tell MLflow nothing now; the next run does")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, everything else on stderr")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="An option of sbatch, or setup=LINE; may be repeated"),
]
