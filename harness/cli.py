"""The command line: parses and prints, decides nothing. Heavy imports wait until a command needs them."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.core.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.core.plan import Plan

app = typer.Typer(
    help="A paper's tables from one command: plan, train what is missing, evaluate, log to MLflow, write the table.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Start here: harness run ablation_ensemble   (synthetic videos, a tiny BEiT, minutes on a laptop)",
)

Names = Annotated[
    list[str],
    typer.Argument(help="Experiments by name or path of a .py file, then key=value, for example train.epochs=3"),
]
Preset = Annotated[str, typer.Option(help="demo, camvid, paper, authors, or the path of a .yaml")]
Root = Annotated[Path, typer.Option(help="Where jobs leave what they make")]
Seeds = Annotated[int, typer.Option(help="Number of seeds, from `seed` on")]
Plugins = Annotated[list[Path] | None, typer.Option(help="A folder of your own plug-ins (FOLDER/decoders/mine.py, …)")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, everything else on stderr")]
PREEMPTED = 75


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


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
    preset: Preset = "demo",
    root: Root = Path("runs"),
    seeds: Seeds = 1,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show cells, jobs, what is done, resumable or missing, and the setting, without running anything."""
    from harness.core import views

    made = make_plan(experiments, preset, root, seeds, plugins)
    if as_json:
        print(json.dumps(views.plan_json(made), indent=1))
    else:
        print(views.plan_text(made))


@app.command()
def run(
    experiments: Names,
    preset: Preset = "demo",
    root: Root = Path("runs"),
    seeds: Seeds = 1,
    launcher: Annotated[str, typer.Option(help="auto, inline, torchrun")] = "auto",
    nproc: Annotated[
        int | None, typer.Option(help="Ranks on this node (torchrun); must divide the micro-batch")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Tell MLflow nothing now; the next run does")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Plan, run what is missing, log to MLflow, and print the table."""
    made = make_plan(experiments, preset, root, seeds, plugins)
    say(first_line(made, preset))
    from harness import execute
    from harness.core.results import rows_json
    from harness.core.table import plain
    from harness.show import Display
    from harness.supervise import Stopped

    how = execute.How(launcher, nproc, offline, command_line())
    try:
        with Display(len(made.jobs)) as display:
            results = execute.run(made, how, display.show, say)
    except Stopped as stop:
        say(f"stopped by {stop}: checkpoints are kept; the same command goes on from there")
        raise typer.Exit(PREEMPTED) from stop
    if as_json:
        import pandas as pd

        frame = pd.concat([done.frame for done in results.finished], ignore_index=True)
        print(json.dumps(rows_json(frame, [done.context for done in results.finished]), indent=1))
    else:
        for done in results.finished:
            for table in done.report.tables.values():
                print("\n" + plain(table))
    for job, reason in results.failures.items():
        say(f"failed: {job.name}: {reason}")
    say(f"{results.executed} jobs executed, {results.already} were done already")
    say("reports: " + ", ".join(str(done.folder / "report.md") for done in results.finished))
    if results.where:
        say(f"open the runs: {results.where}")
        if "mlflow ui" in results.where and "MLFLOW_TRACKING_URI" not in os.environ:
            say("               (in this directory a bare `mlflow ui` shows the same)")
    elif offline:
        say("MLflow was told nothing (--offline); the same command without it does")
    if results.failures:
        raise typer.Exit(1)


@app.command()
def report(
    experiments: Names,
    preset: Preset = "demo",
    root: Root = Path("runs"),
    seeds: Seeds = 1,
    out: Annotated[Path | None, typer.Option(help="Also write report.md, .csv and .tex under this folder")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Look a plan's cells up in MLflow and print the tables; what is not there is shown as missing."""
    made = make_plan(experiments, preset, root, seeds, plugins)
    from harness import review
    from harness.core.results import rows_json
    from harness.core.table import plain, write

    found = review.look_up(made, command_line())
    if as_json:
        import pandas as pd

        frame = pd.concat([one.frame for one in found], ignore_index=True)
        print(json.dumps(rows_json(frame, [one.context for one in found]), indent=1))
    for one in found:
        if out is not None:
            paths = write(one.report, out / one.context.experiment)
            say("written: " + ", ".join(map(str, paths)))
        if not as_json:
            for table in one.report.tables.values():
                print("\n" + plain(table))


def make_plan(words: list[str], preset: str, root: Path, seeds: int, folders: list[Path] | None) -> "Plan":
    """Experiments and key=value, in any order, as a plan."""
    from harness.core import config, plan

    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not names:
        raise UsageError("name an experiment, for example ablation_ensemble; `harness list experiments` shows all")
    return plan.make(names, config.compose(preset, overrides, folders or ()), root, seeds)


def first_line(made: "Plan", preset: str) -> str:
    """What this is, before anything else is printed."""
    from harness.core import paper
    from harness.core.plan import setting

    facts = setting(made.config)
    what = f"{facts['dataset']} videos, {paper.backbone(facts['encoder'])}, {paper.count(facts['epochs'], 'epoch')}"
    verdict = "not the paper" if paper.not_the_papers(facts) else "the paper's setting"
    return f"preset {preset}: {what}; {verdict}"


def command_line() -> tuple[str, ...]:
    """The command as a person would give it again."""
    return ("harness", *sys.argv[1:])


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
