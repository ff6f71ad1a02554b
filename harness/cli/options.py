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
        autocompletion=completion.of_kinds("experiments"),
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
Root = Annotated[Path | None, typer.Option(metavar="DIR", help="Where jobs leave what they make  [built in: runs]")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Number of seeds, from `seed` on")]
Plugins = Annotated[
    list[Path] | None, typer.Option(metavar="DIR", help="A folder of your own plug-ins (DIR/decoders/mine.py, …)")
]
Offline = Annotated[bool, typer.Option("--offline", help="Tell MLflow nothing now; the next run does")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, everything else on stderr")]
Launcher = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto (built in: torchrun where there are several GPUs), inline, torchrun, slurm",
        autocompletion=completion.of_kinds("launchers"),
    ),
]
Nproc = Annotated[int | None, typer.Option(metavar="N", help="Ranks on a node; must divide the micro-batch")]
Nodes = Annotated[int | None, typer.Option(metavar="N", help="Nodes of a job, with --launcher slurm")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="An option of sbatch, or setup=LINE; may be repeated"),
]
MaxJobs = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="At most so many Slurm jobs of the plan in the queue; the others wait here"),
]
Stall = Annotated[
    float | None, typer.Option(metavar="MINUTES", help="Without a step: end, and resume once  [built in: 10]")
]
Deterministic = Annotated[
    bool | None, typer.Option("--deterministic", help="GPUs: the same bits twice, where torch can")
]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Three steps and two videos of each job, for peak memory, pace and cost")
]
Rerun = Annotated[
    str | None,
    typer.Option(metavar="CELL|changed", help="Run a cell again, or all whose code changed; keeps the old results"),
]
Accept = Annotated[str | None, typer.Option(metavar="changed", help="Sign off results made with older code")]
DrySubmit = Annotated[bool, typer.Option("--dry-run", help="Print what sbatch would be given")]
Detach = Annotated[bool, typer.Option("--detach", help="Leave at once; `harness status` comes back to it")]

Search = Annotated[
    str,
    typer.Argument(
        metavar="SEARCH",
        help="A search by name or by the path of a .py file",
        autocompletion=completion.of_kinds("searches"),
    ),
]
SearchWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]", help="Configuration; split=val scores trials on val instead of dev"),
]
Trials = Annotated[int, typer.Option(metavar="N", help="Trials of the study in all; again continues it")]
Workers = Annotated[
    int, typer.Option(metavar="W", help="Processes on this node, each with its part of it; or Slurm jobs")
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL|PATH",
        envvar="HARNESS_STORAGE",
        help="A journal file, or postgresql://… for workers on several nodes",
    ),
]
StudyName = Annotated[str | None, typer.Option(metavar="NAME", help="The study's name  [the search's]")]
Confirm = Annotated[
    int | None, typer.Option(metavar="S", help="Then train the best and the default with S seeds; compare on val")
]
DrySearch = Annotated[bool, typer.Option("--dry-run", help="Show trials, budget and cost; run nothing")]
TrialLauncher = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of each trial's jobs: auto (built in), inline, torchrun; slurm: each worker is a Slurm job",
        autocompletion=completion.of_kinds("launchers"),
    ),
]
TrialNproc = Annotated[int | None, typer.Option(metavar="N", help="Ranks on a node of each trial's jobs")]
WorkerNodes = Annotated[int | None, typer.Option(metavar="N", help="Nodes of a worker, with --launcher slurm")]
