"""The command line: parses and prints, decides nothing. Heavy imports wait until a command needs them."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import cli_jobs
from harness.core.errors import HarnessError, UnfitError, UsageError
from harness.options import PREEMPTED, Json, Names, Plugins, Preset, Root, Seeds, say

if TYPE_CHECKING:
    import pandas as pd

    from harness.core.config import Config
    from harness.core.plan import Plan
    from harness.core.results import Context
    from harness.core.settings import Resolved
    from harness.core.table import Report

app = typer.Typer(
    help="A paper's tables from one command: plan, train what is missing, evaluate, log to MLflow, write the table.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Start here: harness run ablation_ensemble   (synthetic videos, a tiny BEiT, minutes on a laptop)",
)


app.add_typer(cli_jobs.app)


@app.command("list")
def list_command(
    kind: Annotated[str | None, typer.Argument(help="experiments, presets, encoders, decoders, datasets, …")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what there is, with the first line of each file's docstring."""
    from harness.core import plugins as registry
    from harness.core.config import PRESETS

    folders = plugins or []
    kinds = [*registry.KINDS, "presets"]
    if kind is not None and kind not in kinds:
        raise UsageError(f"no kind '{kind}'{registry.suggestion(kind, kinds)}; known: {', '.join(kinds)}")
    found: dict[str, dict[str, str]] = {}
    for each in [kind] if kind else kinds:
        if each == "presets":
            heads = {
                path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in sorted(PRESETS.glob("*.yaml"))
            }
        else:
            paths = registry.paths(each, folders).items()
            heads = {name: (registry.docstring(path).splitlines() or [""])[0] for name, path in paths}
        found[each] = heads
    if as_json:
        print(json.dumps({"schema": 1, **found}, indent=1))
        return
    for each, heads in found.items():
        if heads:
            print(f"{each}:")
            for name, head in heads.items():
                print(f"  {name:<22}{head}")


@app.command()
def plan(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    why: Annotated[str | None, typer.Option(help="A cell: why is it not done? Names the nearest finished job")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show cells, jobs, what is done, resumable or missing, and the setting; nothing is run."""
    from harness.core import views
    from harness.core.why import explain

    made, _ = make_plan(experiments, seeds, preset, root, plugins)
    if why is not None:
        print(explain(made, why))
    elif as_json:
        print(json.dumps(views.plan_json(made), indent=1))
    else:
        print(views.plan_text(made))


@app.command()
def run(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    launcher: Annotated[str | None, typer.Option(help="auto (built in), inline, torchrun, slurm")] = None,
    nproc: Annotated[int | None, typer.Option(help="Ranks on a node; must divide the micro-batch")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes of a job, with --launcher slurm")] = None,
    slurm: Annotated[
        list[str] | None, typer.Option(help="key=value for sbatch, or setup=LINE; may be repeated")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what sbatch would be given")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave at once; `harness status` comes back to it")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Tell MLflow nothing now; the next run does")] = False,
    rerun: Annotated[str | None, typer.Option(help="Run again: 'changed' (code since), or a cell by name")] = None,
    accept: Annotated[str | None, typer.Option(help="'changed': sign off results made with older code")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Plan, run what is missing, log to MLflow, and print the table."""
    if accept not in (None, "changed"):
        raise UsageError(f"--accept {accept}: only 'changed' can be accepted")
    flags = {"launcher": launcher, "nproc": nproc, "nodes": nodes}
    made, settings = make_plan(experiments, seeds, preset, root, plugins, **flags)
    on_slurm = settings.launcher == "slurm"
    if not on_slurm and (slurm or nodes or dry_run):
        raise UsageError("--nodes, --slurm and --dry-run go with --launcher slurm")
    say(first_line(made))
    from harness import cluster, execute
    from harness.show import Display
    from harness.supervise import Stopped

    if accept is not None:
        execute.accept(made, say)
    how = execute.How(
        launcher=settings.launcher,
        nproc=settings.nproc,
        offline=offline,
        tracking_uri=settings.tracking_uri,
        prefix=settings.prefix,
        rerun=rerun,
        command=command_line(),
    )
    if on_slurm:
        how = cluster.asked(how, slurm or (), settings, made)
    if dry_run:
        print(cluster.dry(made, how))
        return
    if detach and not on_slurm:
        say(f"running on its own: {cluster.leave_running(made.root)}; `harness status` shows it")
        return
    try:
        with Display() as display:
            if on_slurm:
                results = cluster.run(made, how, display.show, say, detach)
            else:
                results = execute.run(made, how, display.show, say)
    except Stopped as stop:
        if on_slurm:
            say(f"left by {stop}: the Slurm jobs go on; `harness status` or the same command comes back to them")
            raise typer.Exit(PREEMPTED) from stop
        say(f"stopped by {stop}: checkpoints are kept; the same command goes on from there")
        raise typer.Exit(PREEMPTED) from stop
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
    out: Annotated[Path | None, typer.Option(help="Also write report.md, .csv and .tex under this folder")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Look a plan's cells up in MLflow and print the tables; what is not there is shown as missing."""
    made, settings = make_plan(experiments, seeds, preset, root, plugins)
    from harness import review
    from harness.core.table import write

    found = review.look_up(made, command_line(), settings.tracking_uri, settings.prefix)
    if out is not None:
        for one in found:
            paths = write(one.report, out / one.context.experiment)
            say("written: " + ", ".join(map(str, paths)))
    print_reports([(one.frame, one.context, one.report) for one in found], as_json)


@app.command("score")
def score_command(
    masks: Annotated[Path, typer.Argument(help="Folder of predicted masks: FOLDER/VIDEO/FRAME.png, indices from 0")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example data.vspw.root=DIR")] = None,
    name: Annotated[str, typer.Option(help="What the row is called")] = "",
    split: Annotated[str, typer.Option(help="The split that the masks are of")] = "val",
    preset: Preset = None,
    root: Root = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Score anybody's masks by the official metrics; reports on the same data show them as a further row."""
    from harness.core.record import read_evaluation
    from harness.score import score
    from harness.show import counter

    config, settings = make_config(overrides or [], preset, root, plugins)
    with counter("steps") as show:
        directory = score(masks, name, config, Path(settings.root), split, show)
    final = read_evaluation(directory).final
    if as_json:
        print(json.dumps({"schema": 1, "name": name, "split": split, "fingerprint": directory.name, **final}, indent=1))
        return
    print(f"{name} on {split}: " + "  ".join(f"{key} {value:.2f}" for key, value in final.items()))
    say(f"kept in {directory}; the next `harness run` or `harness report` on this data shows it as a row")


@app.command("check")
def check_command(
    plugin: Annotated[str, typer.Argument(help="A decoder, encoder or data set by name, or the path of its file")],
    options: Annotated[list[str] | None, typer.Argument(help="field=value of the plug-in's Config")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check whether a plug-in keeps its contract: shapes, gradients, loss, stages, ranks, resume, cost."""
    from harness import check

    kind, name, folders = check.find(plugin, plugins or ())
    say(f"checking {kind[:-1]} {name}: trains a tiny model for a moment; about a minute")
    tell = say if as_json else print
    found = check.check(kind, name, folders, tell, check.options(options or []))
    broken = sum(not one.held for one in found)
    if as_json:
        rows = [{"what": one.what, "held": one.held, "text": one.text} for one in found]
        print(json.dumps({"schema": 1, "kind": kind, "name": name, "held": not broken, "promises": rows}, indent=1))
    say(f"{len(found) - broken} of {len(found)} promises hold")
    if broken:
        raise typer.Exit(1)


@app.command("doctor")
def doctor_command(
    words: Annotated[list[str] | None, typer.Argument(help="Experiments and key=value, as for `run`")] = None,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    thorough: Annotated[bool, typer.Option("--thorough", help="Read every frame and mask, not a sample")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Say whether data, weights, devices, software, store and disk fit, why not, and where each setting came from."""
    from harness import doctor

    names = [word for word in words or [] if "=" not in word] or ["ablation_ensemble"]
    overrides = [word for word in words or [] if "=" in word]
    made, settings = make_plan([*names, *overrides], seeds, preset, root, plugins)
    tell = say if as_json else print
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
        print(json.dumps({**doctor.findings_json(found), "settings": origins}, indent=1))
    if any(one.fit is False for one in found):
        raise typer.Exit(UnfitError.exit_code)


def redacted(value: object) -> str:
    """A setting for the eye: without passwords."""
    from harness.core.redact import redact

    return redact(str(value))


def print_reports(found: "list[tuple[pd.DataFrame, Context, Report]]", as_json: bool) -> None:
    """Tables for people, or the JSON of design §5."""
    import pandas as pd

    from harness.core.results import rows_json
    from harness.core.table import plain

    if as_json:
        frame = pd.concat([frame for frame, _, _ in found], ignore_index=True)
        print(json.dumps(rows_json(frame, [context for _, context, _ in found]), indent=1))
        return
    for _, _, made in found:
        for table in made.tables.values():
            print("\n" + plain(table))


def make_plan(
    words: list[str], seeds: int, preset: str | None, root: Path | None, folders: list[Path] | None, **flags: Any
) -> "tuple[Plan, Resolved]":
    """Experiments and key=value, in any order, as a plan."""
    from harness.core import plan

    names = [word for word in words if "=" not in word]
    if not names:
        raise UsageError("name an experiment, for example ablation_ensemble; `harness list experiments` shows all")
    config, found = make_config([word for word in words if "=" in word], preset, root, folders, **flags)
    return plan.make(names, config, Path(found.root), seeds), found


def make_config(
    overrides: list[str], preset: str | None, root: Path | None, folders: list[Path] | None, **flags: Any
) -> "tuple[Config, Resolved]":
    """The configuration: flags first, then harness.yaml, then what is built in; places before key=value."""
    from harness.core import config, settings

    given = {"preset": preset, "root": root and str(root), "plugins": folders and tuple(map(str, folders)), **flags}
    found = settings.resolve(**given)
    places = [f"{key}={value}" for key, value in found.paths.items()]
    return config.compose(found.preset, [*places, *overrides], found.plugins), found


def first_line(made: "Plan") -> str:
    """What this is, before anything else is printed."""
    from harness.core import paper
    from harness.core.plan import setting

    facts = setting(made.config)
    what = f"{facts['dataset']} videos, {paper.backbone(facts['encoder'])}, {paper.count(facts['epochs'], 'epoch')}"
    verdict = "not the paper" if paper.not_the_papers(facts) else "the paper's setting"
    return f"preset {made.config.preset}: {what}; {verdict}"


def command_line() -> tuple[str, ...]:
    """The command as a person would give it again, without secrets: it is kept, logged and printed."""
    return ("harness", *map(redacted, sys.argv[1:]))


def main(arguments: list[str] | None = None) -> int:
    """Entry point. A mistake that one line can explain ends with that line and its exit code."""
    try:
        answer: Any = app(args=arguments, standalone_mode=False, prog_name="harness")
    except HarnessError as error:
        say(f"harness: {' '.join(str(error).split())}")
        return error.exit_code
    except typer.Exit as leave:
        return leave.exit_code
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        say("harness: interrupted; nothing was running")
        return PREEMPTED
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of the parser
            error.show()
            return int(error.exit_code)
        raise
    return answer if isinstance(answer, int) else 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
