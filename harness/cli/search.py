"""The command that searches: trials of a study until it has as many as were asked for."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, Offline, Plugins, Preset, Root, Slurm
from harness.cli.parse import print_tables, run_options
from harness.common.console import out
from harness.common.errors import UnfitError, UsageError
from harness.config import settings

if TYPE_CHECKING:
    from harness.search.command import Done
    from harness.search.request import Request

log = logging.getLogger(__name__)

Search = Annotated[
    str,
    typer.Argument(
        metavar="SEARCH",
        help="A search, by name or path of a .py file",
        autocompletion=completion.of_kinds("searches"),
    ),
]
SearchWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]", help="Configuration; split=val scores trials on val instead of dev"),
]
Trials = Annotated[
    int, typer.Option(metavar="N", help="Total number of trials in the study; repeating the command continues it")
]
Workers = Annotated[int, typer.Option(metavar="W", help="Worker processes that share this node, or Slurm jobs")]
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
    int | None,
    typer.Option(
        metavar="S", help="Afterwards train the best and the default settings with S seeds and compare them on val"
    ),
]
DrySearch = Annotated[bool, typer.Option("--dry-run", help="Show trials, budget and cost without running anything")]
TrialLauncher = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="For each trial's jobs: auto (built in), inline or torchrun; slurm: each worker is a Slurm job",
        autocompletion=completion.of_kinds("launchers"),
    ),
]
TrialNproc = Annotated[int | None, typer.Option(metavar="N", help="Ranks per node for each trial's jobs")]
WorkerNodes = Annotated[int | None, typer.Option(metavar="N", help="Nodes per worker, with --launcher slurm")]


def search(
    name: Search,
    words: SearchWords = None,
    trials: Trials = 24,
    workers: Workers = 1,
    storage: Storage = None,
    study: StudyName = None,
    confirm: Confirm = None,
    dry_run: DrySearch = False,
    preset: Preset = None,
    root: Root = None,
    launcher: TrialLauncher = None,
    nproc: TrialNproc = None,
    nodes: WorkerNodes = None,
    slurm: Slurm = None,
    offline: Offline = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Search for the best values of configuration keys.

    Trials are ordinary jobs: finished ones are reused and interrupted ones resume. Repeating the command continues the
    study; a larger --trials extends it.

    \b
    harness search momentum --trials 24 --workers 2
    harness search momentum --dry-run --preset camvid data.vspw.root=DIR
    harness search momentum --trials 24 --confirm 3
    harness search momentum --trials 24 --workers 8 --launcher slurm --slurm gpus_per_node=8 --storage postgresql://…
    """
    given = {"preset": preset, "root": root and str(root), "plugins": plugins and tuple(map(str, plugins))}
    resolved = settings.resolve(**given, launcher=launcher, nproc=nproc, nodes=nodes)
    if resolved.launcher != "slurm" and (slurm or nodes):
        raise UsageError("--nodes and --slurm can only be used with --launcher slurm")
    wrong = [word for word in words or [] if "=" not in word]
    if wrong:
        raise UsageError(f"'{wrong[0]}' is not KEY=VALUE; give one search at a time")
    from harness.search import slurm_workers
    from harness.search.command import dry
    from harness.search.request import Request

    request = Request(
        search=name,
        total=trials,
        words=(*(f"{key}={value}" for key, value in resolved.paths.items()), *(words or [])),
        preset=resolved.preset,
        root=resolved.root,
        folders=tuple(resolved.plugins),
        study=study,
        storage=storage,
        options=run_options(resolved, offline=offline),
    )
    if resolved.launcher == "slurm":
        request = slurm_workers.with_sbatch(request, slurm or ())
    if confirm is not None and resolved.launcher == "slurm":
        raise UsageError(
            "--confirm trains on the machine where it is called: repeat the command when the trials have ended, inside "
            "an allocation and with another --launcher"
        )
    if dry_run:
        for line in dry(request, workers):
            out(line)
        return
    if confirm is not None and confirm < 1:
        raise UsageError(f"--confirm {confirm}: must be at least 1")
    done = searched(request, workers, confirm)
    show(done, as_json)


def searched(request: "Request", workers: int, confirm: int | None) -> "Done":
    """Run the study, and confirm its best where that is asked for."""
    from harness.common.progress import Progress
    from harness.search.command import confirmed, run

    with Progress() as progress:
        done = run(request, workers, progress)
        return done if confirm is None else confirmed(request, done, confirm, progress)


def show(done: "Done", as_json: bool) -> None:
    """Print the finding and the table; then exit with the code of what went wrong."""
    from harness.report.html_page import NAME

    if as_json:
        out(json.dumps(as_values(done), indent=1))
    else:
        out(done.report.title)
        for note in done.report.notes:
            out(f"  {note}")
        print_tables(done.report)
    log.info(f"page: {done.folder / NAME}")
    if done.where:
        log.info(f"MLflow: {done.where if done.where.startswith('http') else f'harness ui search_{done.study.search}'}")
    failed = [trial for trial in done.trials if trial.state == "failed"]
    if failed:
        log.info(f"{len(failed)} trial(s) failed; the first: {failed[0].facts.get('reason')}")
    if done.failures:
        log.info(f"not confirmed: {len(done.failures)} of the jobs failed")
    if failed or done.failures:
        raise typer.Exit(1)
    if done.away:
        raise UnfitError(f"{done.away}; the study is saved; rerun the same command later to upload it to MLflow")


def as_values(done: "Done") -> dict[str, object]:
    """Return what --json prints."""
    return {
        "schema": 1,
        "study": done.study.name,
        "finding": done.report.title,
        "split": done.study.split,
        "trials": [
            {
                **{"number": trial.number, "state": trial.state, "params": dict(trial.params), "miou": trial.value},
                **{"looks": {str(part): value for part, value in trial.looks.items()}, "default": trial.default},
                **{"facts": dict(trial.facts), "seconds": trial.seconds},
            }
            for trial in done.trials
        ],
        "importance": {key: done.importance.get(key) for key in done.study.space},
        "best": best(done),
        "report": str(Path(done.folder) / "report.md"),
    }


def best(done: "Done") -> dict[str, object] | None:
    """Return the best setting against the default by seed; None where no setting is complete."""
    from reports.search.finding import find

    finding = find(done.study, done.trials)
    if finding.best is None:
        return None
    low, high = finding.interval[:2]
    return {
        **{"trial": finding.best.number, "params": dict(finding.best.params)},
        "by_seed": {str(seed): value for seed, value in finding.differences.items()},
        **{"lead": finding.lead, "low": low, "high": high},
        **{"noise": finding.noise, "distinguishable": finding.distinguishable},
    }
