"""Arguments and flags that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="EXPERIMENT|KEY=VALUE",
        help="Experiments, by name or path of a .py file, and configuration, for example train.epochs=3",
        autocompletion=completion.experiments_and_keys,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="demo (built in), camvid, paper, authors, or the path of a .yaml file; several as A+B, the later wins",
        autocompletion=completion.presets,
    ),
]
Root = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Output directory: jobs, reports, logs  [built in: runs]")
]
Seeds = Annotated[int, typer.Option(metavar="N", help="Number of seeds, starting at `seed`")]
Plugins = Annotated[
    list[Path] | None, typer.Option(metavar="DIR", help="Folder with your own plug-ins (DIR/decoders/mine.py, …)")
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not log to MLflow now; the next run uploads the results")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout and everything else to stderr")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="An sbatch option, or setup=LINE; may be repeated"),
]
