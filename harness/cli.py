"""The command line: parses and prints, decides nothing. Heavy imports wait until a command needs them."""

import json
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import cli_jobs, completion, looking, searching
from harness.asked import (
    command_line,
    first_line,
    folders,
    make_config,
    make_plan,
    print_problems,
    print_reports,
    redacted,
)
from harness.core.errors import HarnessError, UnfitError, UsageError, refused
from harness.core.stopping import Stopped, stop_signals
from harness.core.voice import out, say
from harness.options import PREEMPTED, Json, Names, Plugins, Preset, Root, Seeds

app = typer.Typer(
    help="The tables of Memory Based Video Scene Parsing from one command: trains what is missing, evaluates, logs to "
    "MLflow, and sets our numbers beside the paper's.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="""\b
Start here:   harness run ablation_ensemble     synthetic videos, a tiny BEiT, minutes on a laptop
Your data:    harness doctor --preset paper data.vspw.root=DIR
Your decoder: harness check mine --plugins DIR

Defaults of a person or a site stand in harness.yaml; README.md shows one.""",
)


def show_version(asked: bool) -> None:
    """--version."""
    if asked:
        out(f"harness {version('memory-vsp-harness')}")
        raise typer.Exit


@app.callback()
def front(
    asked: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None:
    """What comes before a command."""


@app.command("list")
def list_command(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="One kind only: experiments, decoders, …", autocompletion=completion.kinds),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List experiments, presets, decoders and all else by name.

    Each name is that of a file; beside it stands the first line of the file's docstring. A file of your own is listed
    with --plugins DIR, where it lies as DIR/decoders/mine.py, DIR/encoders/…, DIR/datasets/… or DIR/experiments/….

    \b
    harness list
    harness list decoders --plugins docs/examples
    """
    from harness.core import plugins as registry

    kinds = [*registry.KINDS, "presets"]
    if kind is not None and kind not in kinds:
        raise UsageError(f"no kind '{kind}'{registry.suggestion(kind, kinds)}; known: {', '.join(kinds)}")
    own = folders(plugins)
    found = {each: completion.heads(each, own) for each in ([kind] if kind else kinds)}
    if as_json:
        out(json.dumps({"schema": 1, **found}, indent=1))
        return
    for each, heads in found.items():
        if heads:
            out(f"{each}:")
            for name, head in heads.items():
                out(f"  {name:<22}{head}")


@app.command()
def plan(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    why: Annotated[
        str | None,
        typer.Option(
            metavar="CELL", help="Why is it not done? Names the nearest finished job and the keys that differ"
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Cost by FLOPs, where nothing like it is finished")] = False,
    rate: Annotated[float, typer.Option(metavar="TFLOPS", help="What a GPU does a second, for --count")] = 100.0,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do and what is done already; runs nothing.

    Prints the setting, the cells of every experiment with the paper's numbers, and every job with its fingerprint and
    state: done (and whether code has changed since), resumable or missing; and what the missing ones will cost, where
    one like them is finished under the root. Needs neither torch nor data.

    \b
    harness plan ablation_ensemble --preset paper
    harness plan ablation_ensemble train.lr=3e-5 --why decoder_a
    """
    from harness.core import cost, views
    from harness.core.why import explain

    made, _ = make_plan(experiments, seeds, preset, root, plugins)
    if why is not None:
        out(explain(made, why))
        return
    if rate <= 0:
        raise UsageError(f"--rate {rate:g}: must be more than 0")
    found = cost.costs(made, cost.count(made) if count else None, rate)
    if as_json:
        out(json.dumps({**views.plan_json(made), "cost": cost.cost_json(found)}, indent=1))
    else:
        out("\n".join([views.plan_text(made), *cost.cost_lines(found)]))


@app.command()
def run(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    launcher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="auto (built in: torchrun where there are several GPUs), inline, torchrun, slurm",
            autocompletion=completion.of_kinds("launchers"),
        ),
    ] = None,
    nproc: Annotated[int | None, typer.Option(metavar="N", help="Ranks on a node; must divide the micro-batch")] = None,
    nodes: Annotated[int | None, typer.Option(metavar="N", help="Nodes of a job, with --launcher slurm")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of sbatch, or setup=LINE; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what sbatch would be given")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave at once; `harness status` comes back to it")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Tell MLflow nothing now; the next run does")] = False,
    stall: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Without a step: end, and resume once  [built in: 10]")
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="GPUs: the same bits twice, where torch can")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Three steps and two videos of each job, for peak memory, pace and cost")
    ] = False,
    rerun: Annotated[
        str | None,
        typer.Option(metavar="CELL|changed", help="Run a cell again, or all whose code changed; keeps the old results"),
    ] = None,
    accept: Annotated[str | None, typer.Option(metavar="changed", help="Sign off results made with older code")] = None,
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
    if accept not in (None, "changed"):
        raise UsageError(f"--accept {accept}: only 'changed' can be accepted")
    flags = {"launcher": launcher, "nproc": nproc, "nodes": nodes, "stall": stall, "deterministic": deterministic}
    made, settings = make_plan(experiments, seeds, preset, root, plugins, **flags)
    on_slurm = settings.launcher == "slurm"
    if not on_slurm and (slurm or nodes or dry_run):
        raise UsageError("--nodes, --slurm and --dry-run go with --launcher slurm")
    say(first_line(made))
    from harness import cluster, execute
    from harness.show import Display

    if accept is not None:
        execute.accept(made, say)
    how = execute.How(
        launcher=settings.launcher,
        nproc=settings.nproc,
        offline=offline,
        tracking_uri=settings.tracking_uri,
        prefix=settings.prefix,
        rerun=rerun,
        stall=settings.stall,
        deterministic=settings.deterministic,
        command=command_line(),
    )
    if rehearse:
        from harness.rehearse import rehearse as rehearsal

        with Display() as display:
            lines = rehearsal(made, how, display.show, say)
        out("\n".join(lines))
        return
    if on_slurm:
        how = cluster.asked(how, slurm or (), settings, made)
    if dry_run:
        out(cluster.dry(made, how))
        return
    if detach and not on_slurm:
        say(f"running on its own, see {cluster.leave_running(made.root)}; `harness status` shows it")
        return
    with Display() as display:
        if on_slurm:
            results = cluster.run(made, how, display.show, say, detach)
        else:
            results = execute.run(made, how, display.show, say)
    if results is None:
        say("the Slurm jobs run on their own; `harness status` or the same command comes back to them")
        return
    print_reports([(done.frame, done.context, done.report) for done in results.finished], as_json)
    for job, reason in results.failures.items():
        say(f"failed: {job.name}: {reason}")
    shared = f", {results.elsewhere} done by another run" if results.elsewhere else ""
    say(f"{results.executed} jobs executed, {results.already} were done already{shared}")
    say("reports: " + ", ".join(str(done.folder / "report.md") for done in results.finished))
    if results.where:
        say(f"open the runs: {results.where}")
        if settings.tracking_uri is None:
            say("               (in this directory a bare `mlflow ui` shows the same)")
    elif offline:
        say("MLflow was told nothing (--offline); the same command without it does")
    if results.failures:
        raise typer.Exit(1)
    if results.away:
        raise UnfitError(f"{results.away}; the results are under {made.root}, and the same command tells MLflow later")


@app.command()
def report(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write the page, tables and figures there")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Write the page and open it in the browser")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Print an experiment's table from MLflow alone; --open shows the whole report.

    Give it what `run` was given. Its cells are looked up in the store by their fingerprints: neither the root nor torch
    is needed, and what is not in the store is shown as missing.

    \b
    harness report ablation_ensemble --json
    MLFLOW_TRACKING_URI=http://HOST:5000 harness report ablation_ensemble --preset paper --out tables
    """
    made, settings = make_plan(experiments, seeds, preset, root, plugins)
    from harness import review

    if show and folder is None:
        folder = made.root / "review"
    found = review.look_up(made, command_line(), settings.tracking_uri, settings.prefix, folder)
    if folder is not None:
        from harness import present, ui

        for one in found:
            paths = present.write(one.report, one.frame, one.context, folder / one.context.experiment)
            say("written: " + ", ".join(map(str, paths)))
            if show:
                ui.open_page(paths[-1], say)
    print_reports([(one.frame, one.context, one.report) for one in found], as_json)


app.add_typer(cli_jobs.app)
app.command("search")(searching.search)
app.command("ui")(looking.ui)
app.command("predict")(looking.predict)


@app.command("score")
def score_command(
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder that holds VIDEO/FRAME.png, or its .zip")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="For example data.vspw.root=DIR")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the row is called  [required]")] = "",
    split: Annotated[str, typer.Option(metavar="SPLIT", help="The split that the masks are of")] = "val",
    preset: Preset = None,
    root: Root = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Score a folder of anybody's masks by the official metrics.

    The folder holds VIDEO/FRAME.png for every frame of the split, one class index from 0 a pixel. The score becomes a
    further row of every table that is made of the same data. Equal masks are scored once. On a split without labels
    it is checked whether they are what the challenge's server takes.

    \b
    harness score MASKS --name CFFM --preset paper data.vspw.root=DIR
    """
    from harness import submission
    from harness.core.record import read_evaluation
    from harness.score import score
    from harness.show import counter

    config, settings = make_config(overrides or [], preset, root, plugins)
    if submission.unlabelled(config, split):
        with counter("videos") as show:
            problems = submission.check(masks, config, split, show)
        print_problems(masks, split, problems, as_json)
        return
    with counter("steps") as show:
        directory = score(masks, name, config, Path(settings.root), split, show)
    final = read_evaluation(directory).final
    if as_json:
        out(json.dumps({"schema": 1, "name": name, "split": split, "fingerprint": directory.name, **final}, indent=1))
        return
    out(f"{name} on {split}: " + "  ".join(f"{key} {value:.2f}" for key, value in final.items()))
    say(f"kept in {directory}; the next `harness run` or `harness report` on this data shows it as a row")


@app.command("check")
def check_command(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="PLUGIN",
            help="A decoder, encoder or data set by name, or the path of its file",
            autocompletion=completion.of_kinds("decoders", "encoders", "datasets"),
        ),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Values of the plug-in's Config")
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check whether a decoder, encoder or data set keeps its contract.

    Tries shapes, gradients, whether the loss falls, stages, two ranks against one, resuming, cost: a line each, with
    figures, or with what was expected and what came. docs/OWN_DECODER.md has the list. Exit code 1 where one is broken.

    \b
    harness check frame_difference --plugins docs/examples
    harness check mine/decoders/mine.py channels=48
    """
    from harness import check

    kind, name, own = check.find(plugin, folders(plugins))
    say(f"checking {kind[:-1]} {name}: trains a tiny model for a moment; about a minute")
    tell = say if as_json else out
    found = check.check(kind, name, own, tell, check.options(options or []))
    broken = sum(not one.held for one in found)
    if as_json:
        rows = [{"what": one.what, "held": one.held, "text": one.text} for one in found]
        out(json.dumps({"schema": 1, "kind": kind, "name": name, "held": not broken, "promises": rows}, indent=1))
    say(f"{len(found) - broken} of {len(found)} promises hold")
    if broken:
        raise typer.Exit(1)


@app.command("doctor")
def doctor_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT|KEY=VALUE",
            help="As for `run`  [built in: ablation_ensemble]",
            autocompletion=completion.of_kinds("experiments"),
        ),
    ] = None,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    thorough: Annotated[bool, typer.Option("--thorough", help="Read every frame and mask, not a sample")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Say whether data, weights, machine and store fit.

    Give it what you mean to give `run`. First comes where each setting is from (flag, harness.yaml, built in), then a
    line for each thing about data, weights, devices, software, store and disk: fit, UNFIT or a note, with what to do.
    Exit code 3 where something is unfit.

    \b
    harness doctor ablation_ensemble --preset paper data.vspw.root=DIR
    """
    from harness import doctor

    names = [word for word in words or [] if "=" not in word] or ["ablation_ensemble"]
    overrides = [word for word in words or [] if "=" in word]
    made, settings = make_plan([*names, *overrides], seeds, preset, root, plugins)
    tell = say if as_json else out
    for key, source in settings.sources.items():
        tell(f"setting   {key} = {redacted(getattr(settings, key))}  ({source})")
    found = []
    for one in doctor.examine(
        made.config, made.root, settings.tracking_uri, settings.prefix, plan=made, thorough=thorough, say=say
    ):
        tell(doctor.line(one))
        found.append(one)
    if as_json:
        origins = {key: {"value": redacted(getattr(settings, key)), "source": s} for key, s in settings.sources.items()}
        out(json.dumps({**doctor.findings_json(found), "settings": origins}, indent=1))
    if any(one.fit is False for one in found):
        raise typer.Exit(UnfitError.exit_code)


@app.command("gc")
def gc_command(
    root: Root = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed")] = False,
    as_json: Json = False,
) -> None:
    """List what no plan of this root refers to and what dead processes left; delete it on --yes.

    A plan that was ever run or searched is noted in ROOT/plans; delete its file there, and what it alone refers to is
    listed. Nothing that a run is at work on is listed or deleted.
    """
    from harness.core import garbage

    place = Path(make_config([], None, root, None)[1].root)
    found = garbage.garbage(place)
    if as_json:
        out(json.dumps({"schema": 1, "items": [{**vars(one), "path": str(one.path)} for one in found]}, indent=1))
    else:
        for one in found:
            out(f"{one.bytes / 1e6:10.1f} MB  {one.path}  ({one.why})")
    total = sum(one.bytes for one in found)
    if yes:
        say(f"deleted: {garbage.delete(found) / 1e6:.1f} MB")
    else:
        say(f"{len(found)} item(s), {total / 1e6:.1f} MB; --yes deletes them")


def main(arguments: list[str] | None = None) -> int:
    """Entry point. A mistake that one line can explain ends with that line and its exit code."""
    try:
        with stop_signals():
            answer: Any = app(args=arguments, standalone_mode=False, prog_name="harness")
    except HarnessError as error:
        return fail(error)
    except OSError as error:
        return fail(refused(error))
    except Stopped as stop:
        say(f"harness: stopped by {stop}: what is finished is kept; the same command goes on from there")
        return PREEMPTED
    except typer.Exit as leave:
        return leave.exit_code
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of the parser
            error.show()
            return int(error.exit_code)
        raise
    return answer if isinstance(answer, int) else 0


def fail(error: HarnessError) -> int:
    """Say what is wrong, in one line; the exit code."""
    say(f"harness: {' '.join(str(error).split())}")
    return error.exit_code


def entry() -> None:
    """The console script."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while Python ends leaves no traceback
    sys.exit(code)


if __name__ == "__main__":
    entry()
