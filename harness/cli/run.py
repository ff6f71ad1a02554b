"""`harness run`: what is missing of a plan is run, here or by Slurm, and its tables are printed."""

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import completion
from harness.cli.options import Json, Names, Offline, Plugins, Preset, Root, Seeds, Slurm
from harness.cli.parse import first_line, make_plan, print_reports, run_options
from harness.common.console import out
from harness.common.errors import HarnessError, UnfitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.config.settings import RunOptions
    from harness.launch.runner import Results
    from harness.plan.plan import Plan

log = logging.getLogger(__name__)

Launcher = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto (built in: torchrun if there are several GPUs), inline, torchrun or slurm",
        autocompletion=completion.of_kinds("launchers"),
    ),
]
Nproc = Annotated[int | None, typer.Option(metavar="N", help="Ranks per node; must divide the micro-batch")]
Nodes = Annotated[int | None, typer.Option(metavar="N", help="Nodes per job, with --launcher slurm")]
Stall = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES", help="End a job that makes no step for this long, and resume it once  [built in: 10]"
    ),
]
Deterministic = Annotated[
    bool | None, typer.Option("--deterministic", help="Make GPU results repeatable to the bit where torch can")
]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Dry run: three steps and two videos of each job, to measure peak memory, speed and cost"
    ),
]
Rerun = Annotated[
    str | None,
    typer.Option(metavar="ROW|changed", help="Rerun a row, or all rows whose code has changed; old results are kept"),
]
Accept = Annotated[str | None, typer.Option(metavar="changed", help="Accept results that older code produced")]
MaxJobs = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Keep at most N of the plan's Slurm jobs in the queue; the others wait here"),
]
DrySubmit = Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts without submitting them")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; follow the jobs with `harness status`")]


def run(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    launcher: Launcher = None,
    nproc: Nproc = None,
    nodes: Nodes = None,
    slurm: Slurm = None,
    max_jobs: MaxJobs = None,
    dry_run: DrySubmit = False,
    detach: Detach = False,
    offline: Offline = False,
    stall: Stall = None,
    deterministic: Deterministic = None,
    rehearse: Rehearse = False,
    rerun: Rerun = None,
    accept: Accept = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Run the missing jobs of an experiment and print its table.

    Finished jobs are reused; interrupted ones resume from their last checkpoint or video. KEY=VALUE, --preset and
    --seeds say what to run and are part of every job's identity; all other flags say how to run it and are not.

    \b
    harness run ablation_ensemble                                 synthetic videos, a tiny BEiT
    harness run ablation_ensemble --seeds 3 variants=all
    harness run ablation_ensemble 'extra=[mine]' --plugins DIR    your decoder as an extra row
    harness run ablation_ensemble --preset paper data.vspw.root=DIR
    harness run ablation_ensemble --launcher slurm --slurm gpus_per_node=8 --slurm partition=gpu --detach

    Exit codes: 0 done; 1 a job failed and the rest ran; 2 a wrong name, key, value or flag; 3 data, weights, store or
    machine cannot be used; 75 stopped by a signal, rerun the same command to continue.
    """
    if accept not in (None, "changed", "data"):
        raise UsageError(f"--accept {accept}: choose 'changed' or 'data'")
    flags: dict[str, Any] = {
        "launcher": launcher,
        "nproc": nproc,
        "nodes": nodes,
        "stall": stall,
        "deterministic": deterministic,
    }
    plan, settings = make_plan(experiments, seeds, preset, root, plugins, accept=accept == "data", **flags)
    on_slurm = settings.launcher == "slurm"
    given = {"--rehearse": rehearse, "--dry-run": dry_run, "--detach": detach, "--json": as_json, "--rerun": rerun}
    refuse({**given, "--accept": accept, "--slurm": slurm, "--nodes": nodes, "--max-jobs": max_jobs}, on_slurm)
    log.info(first_line(plan))
    from harness.plan import data_changes

    for line in data_changes.lines(plan):
        log.info(line)
    if accept == "data" and not plan.config.content.adopted:
        log.info("--accept data: every result in the output directory already has digests of its files")
    from harness.launch import runner, slurm_jobs

    if accept == "changed":
        runner.accept(plan)
    options = run_options(settings, offline=offline, rerun=rerun, max_jobs=max_jobs)
    if on_slurm:
        options = slurm_jobs.with_sbatch(options, slurm or (), plan)
    if dry_run:
        out(dry(plan, options, rehearse))
        return
    if rehearse:
        print_rehearsal(plan, options, on_slurm, detach)
        return
    results = carry_out(plan, options, on_slurm, detach)
    if results is not None:
        print_reports(results.finished, as_json)
        conclude(results, offline, str(plan.root), plan.config.evaluate.metrics or ())


def refuse(given: "Mapping[str, object]", on_slurm: bool) -> None:
    """Raise UsageError for flags that do not go together."""
    apart = {
        "--rehearse": ["--rerun", "--accept", "--json"],
        "--dry-run": ["--rerun", "--accept", "--json", "--detach"],
    }
    if not on_slurm:
        apart["--rehearse"].append("--detach")
        if alone := [flag for flag in ("--nodes", "--slurm", "--max-jobs", "--dry-run") if given[flag]]:
            raise UsageError(f"{' and '.join(alone)} can only be used with --launcher slurm")
    for flag, others in apart.items():
        if given[flag] and (wrong := [other for other in others if given[other]]):
            raise UsageError(f"{flag} cannot be combined with {' and '.join(wrong)}")


def carry_out(plan: "Plan", options: "RunOptions", on_slurm: bool, detach: bool) -> "Results | None":
    """Run the plan here or by Slurm; None where it is left to run on its own."""
    from harness.common.progress import Progress
    from harness.launch import notification, runner, slurm_jobs

    if detach and (not on_slurm or options.max_jobs):  # somebody must stay to submit the rest
        if not on_slurm:
            runner.preflight(plan, options)
        log.info(
            f"running in the background, log in {slurm_jobs.leave_running(plan.root)}; `harness status` shows progress"
        )
        return None
    try:
        with Progress() as progress:
            if on_slurm:
                results = slurm_jobs.run(plan, options, progress, detach)
            else:
                results = runner.run(plan, options, progress)
    except HarnessError as error:
        notification.send(options.notify, "failed", plan, str(error))
        raise
    if results is None:
        log.info("the Slurm jobs run in the background; follow them with `harness status` or rerun the same command")
    elif not on_slurm:
        notification.notify_of_results(plan, options, results.failures)
    return results


def dry(plan: "Plan", options: "RunOptions", rehearse: bool) -> str:
    """Return the batch scripts that sbatch would be given."""
    from harness.launch import rehearsal, slurm_jobs

    return rehearsal.dry(plan, options) if rehearse else slurm_jobs.dry(plan, options)


def print_rehearsal(plan: "Plan", options: "RunOptions", on_slurm: bool, detach: bool) -> None:
    """Print what --rehearse measures, here or in a Slurm job."""
    from harness.common.progress import Progress
    from harness.launch import rehearsal as rehearse

    with Progress() as progress:
        if on_slurm:
            lines = rehearse.by_slurm(plan, options, progress, detach)
        else:
            lines = rehearse.rehearse(plan, options, progress)
    if lines is None:
        log.info("the dry run continues in the background; rerun the same command to see its results")
    else:
        out("\n".join(lines))


def conclude(results: "Results", offline: bool, root: str, metrics: "Sequence[str]") -> None:
    """Print a run's results and where they are. Raise what the run ends with."""
    from harness.report.html_page import NAME

    for job, reason in results.failures.items():
        log.info(f"failed: {job.name}: {reason}")
    shared = f", {results.elsewhere} done by another run" if results.elsewhere else ""
    failed = f", {len(results.failures)} failed" if results.failures else ""
    log.info(f"{results.executed} jobs executed, {results.already} already done{shared}{failed}")
    for done in results.finished:
        log.info(f"page: {done.folder / NAME}")
        for path in sorted(done.folder.glob("*_metric_intervals.csv")) if metrics else ():
            log.info(f"{', '.join(metrics)}: {path}")
    if results.where:
        log.info(f"MLflow: {results.where if results.where.startswith('http') else 'harness ui'}")
    elif offline:
        log.info("nothing was logged to MLflow (--offline); rerun the command without it to upload")
    if results.failures:
        raise typer.Exit(1)
    if results.away:
        raise UnfitError(
            f"{results.away}; the results are saved in {root}; rerun the same command later to upload them to MLflow"
        )
