"""`harness run`: what is missing of a plan is run, here or by Slurm, and its tables are printed."""

from typing import TYPE_CHECKING, Any

import typer

from harness.cli import options
from harness.cli.options import Json, Names, Offline, Plugins, Preset, Root, Seeds
from harness.cli.parse import first_line, make_plan, print_reports, run_options
from harness.common.console import out, say
from harness.common.errors import UnfitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.launch.runner import How, Results
    from harness.plan.plan import Plan


def run(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    launcher: options.Launcher = None,
    nproc: options.Nproc = None,
    nodes: options.Nodes = None,
    slurm: options.Slurm = None,
    dry_run: options.DrySubmit = False,
    detach: options.Detach = False,
    offline: Offline = False,
    stall: options.Stall = None,
    deterministic: options.Deterministic = None,
    rehearse: options.Rehearse = False,
    rerun: options.Rerun = None,
    accept: options.Accept = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Run what is missing of an experiment, and print its table.

    What is done stays done; what was interrupted goes on from its last checkpoint or video. KEY=VALUE, --preset and
    --seeds say what runs and are part of every job's identity; all other flags say how, and never are.

    \b
    harness run ablation_ensemble                                 synthetic videos, a tiny BEiT
    harness run ablation_ensemble --seeds 3 variants=all
    harness run ablation_ensemble 'extra=[mine]' --plugins DIR    your decoder as one more row
    harness run ablation_ensemble --preset paper data.vspw.root=DIR
    harness run ablation_ensemble --launcher slurm --slurm gpus_per_node=8 --slurm partition=gpu --detach

    Exit codes: 0 done; 1 a job failed, the rest ran; 2 a wrong name, key, value or flag; 3 data, weights, store or
    machine unfit; 75 stopped by a signal, the same command goes on.
    """
    if accept not in (None, "changed", "data"):
        raise UsageError(f"--accept {accept}: only 'changed' and 'data' can be accepted")
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
    refuse({**given, "--accept": accept, "--slurm": slurm, "--nodes": nodes}, on_slurm)
    say(first_line(plan))
    from harness.plan import data_changes

    for line in data_changes.lines(plan):
        say(line)
    if accept == "data" and not plan.config.content.adopted:
        say("--accept data: the output directory has no results without digests of files")
    from harness.launch import runner, slurm_jobs

    if accept == "changed":
        runner.accept(plan, say)
    how = runner.How(
        **run_options(settings),
        offline=offline,
        rerun=rerun,
        stall=settings.stall,
        deterministic=settings.deterministic,
    )
    if on_slurm:
        how = slurm_jobs.asked(how, slurm or (), settings, plan)
    if dry_run:
        out(dry(plan, how, rehearse))
        return
    if rehearse:
        print_rehearsal(plan, how, on_slurm, detach)
        return
    results = carry_out(plan, how, on_slurm, detach)
    if results is not None:
        print_reports([(done.rows, done.context, done.report) for done in results.finished], as_json)
        conclude(results, offline, settings.tracking_uri is None, str(plan.root))


def refuse(given: "Mapping[str, object]", on_slurm: bool) -> None:
    """Raise UsageError for flags that do not go together."""
    apart = {
        "--rehearse": ["--rerun", "--accept", "--json"],
        "--dry-run": ["--rerun", "--accept", "--json", "--detach"],
    }
    if not on_slurm:
        apart["--rehearse"].append("--detach")
        if alone := [flag for flag in ("--nodes", "--slurm", "--dry-run") if given[flag]]:
            raise UsageError(f"{' and '.join(alone)} need --launcher slurm")
    for flag, others in apart.items():
        if given[flag] and (wrong := [other for other in others if given[other]]):
            raise UsageError(f"{flag} does not go with {' and '.join(wrong)}; leave that out")


def carry_out(plan: "Plan", how: "How", on_slurm: bool, detach: bool) -> "Results | None":
    """Run the plan here or by Slurm; None where it is left to run on its own."""
    from harness.launch import runner, slurm_jobs
    from harness.launch.progress import Display

    if detach and not on_slurm:
        runner.able(plan, how, say)
        say(f"running on its own, see {slurm_jobs.leave_running(plan.root)}; `harness status` shows it")
        return None
    with Display() as display:
        if not on_slurm:
            return runner.run(plan, how, display.show, say)
        results = slurm_jobs.run(plan, how, display.show, say, detach)
    if results is None:
        say("the Slurm jobs run on their own; `harness status` or the same command comes back to them")
    return results


def dry(plan: "Plan", how: "How", rehearse: bool) -> str:
    """What sbatch would be given."""
    from harness.launch import rehearsal, slurm_jobs

    return rehearsal.dry(plan, how) if rehearse else slurm_jobs.dry(plan, how)


def print_rehearsal(plan: "Plan", how: "How", on_slurm: bool, detach: bool) -> None:
    """What --rehearse measures, here or in a Slurm job."""
    from harness.launch import rehearsal as rehearse
    from harness.launch.progress import Display

    with Display() as display:
        if on_slurm:
            lines = rehearse.by_slurm(plan, how, display.show, say, detach)
        else:
            lines = rehearse.rehearse(plan, how, display.show, say)
    if lines is None:
        say("it runs on its own; its log will have what it found, and the same command comes back to it")
    else:
        out("\n".join(lines))


def conclude(results: "Results", offline: bool, bare: bool, root: str) -> None:
    """Say what came of a run and where it lies; `bare`: MLflow's default store. Raises what the run ends with."""
    for job, reason in results.failures.items():
        say(f"failed: {job.name}: {reason}")
    shared = f", {results.elsewhere} done by another run" if results.elsewhere else ""
    failed = f", {len(results.failures)} failed" if results.failures else ""
    say(f"{results.executed} jobs executed, {results.already} were done already{shared}{failed}")
    say("reports: " + ", ".join(str(done.folder / "report.md") for done in results.finished))
    if results.where:
        say(f"open the runs: {results.where}")
        if bare:
            say("               (in this directory a bare `mlflow ui` shows the same)")
    elif offline:
        say("MLflow was told nothing (--offline); the same command without it does")
    if results.failures:
        raise typer.Exit(1)
    if results.away:
        raise UnfitError(f"{results.away}; the results are under {root}, and the same command tells MLflow later")
