"""The command line: parses and prints, decides nothing. Heavy imports wait until a command needs them.

One file for each group of commands; `options` are the flags they share, `parse` turns words into a plan.
"""

import logging
import signal
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer

from harness.cli import diagnose, export, jobs, plan, reports, run, search
from harness.common import collector, machine
from harness.common.child import in_utf8
from harness.common.console import logging_to_stderr, never_refuse, out
from harness.common.errors import KEPT, HarnessError, refused
from harness.common.signals import PREEMPTED, Stopped, stop_signals

log = logging.getLogger(__name__)

app = typer.Typer(
    help="Reproduce the tables of Memory Based Video Scene Parsing with one command: train what is missing, evaluate, "
    "log to MLflow, and compare the results with the paper's.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="""\b
Start here:   harness run ablation_ensemble     synthetic videos, a tiny BEiT, minutes on a laptop
Your data:    harness doctor --preset paper data.vspw.root=DIR
Your decoder: harness check mine --plugins DIR

Put your own or your site's defaults in harness.yaml; see docs/USAGE.md.""",
)


def show_version(asked: bool) -> None:
    """Print the version and exit."""
    if asked:
        out(f"harness {version('memory-vsp-harness')}")
        raise typer.Exit


COMPUTING_LITTLE = ("plan", "run", "search", "status", "report", "score")  # with numpy, in this process


@app.callback()
def front(
    context: typer.Context,
    asked: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None:
    """Set up what holds for every command."""
    del asked  # `show_version` has answered
    if context.invoked_subcommand in COMPUTING_LITTLE:
        machine.import_numpy()


COMMANDS = (  # in the order of --help
    ("list", plan.list_),
    ("plan", plan.plan),
    ("run", run.run),
    ("status", jobs.status),
    ("cancel", jobs.cancel),
    ("report", reports.report),
    ("ui", reports.ui),
    ("export", export.export),
    ("search", search.search),
    ("score", reports.score),
    ("predict", reports.predict),
    ("doctor", diagnose.doctor),
    ("check", diagnose.check),
    ("sync", jobs.sync),
    ("gc", jobs.gc),
)
for name, command in COMMANDS:
    app.command(name)(command)


@logging_to_stderr()
def main(arguments: list[str] | None = None) -> int:
    """Run a command; a mistake that one line can explain ends with that line and its exit code."""
    try:
        with stop_signals():
            answer: Any = app(args=arguments, standalone_mode=False, prog_name="harness")
    except HarnessError as error:
        return fail(error)
    except OSError as error:
        return fail(refused(error))
    except Stopped as stop:
        log.info(f"harness: stopped by {stop}: {KEPT}")
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
    """Print what is wrong in one line; return the exit code."""
    log.error(f"harness: {' '.join(str(error).split())}")
    return error.exit_code


def entry() -> None:
    """Run the console script; a defect's traceback is shown without passwords."""
    in_utf8()
    never_refuse()
    collector.importing()
    try:
        code = main()
    except Exception as error:
        with logging_to_stderr():
            log.error("".join(traceback.format_exception(error)).rstrip())
        code = 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while Python ends leaves no traceback
    collector.freeze_for_exit()
    sys.exit(code)
