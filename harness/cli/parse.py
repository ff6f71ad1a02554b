"""Words and flags of a command line as a plan; reports printed as text or JSON."""

import errno
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.common.console import out
from harness.common.errors import UnfitError, UsageError, refused

SHOWN = 50  # problems of a submission that are printed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.config.compose import Config
    from harness.config.settings import Resolved, RunOptions
    from harness.plan.plan import Plan
    from harness.results.rows import Context, Row
    from harness.results.table import Report

log = logging.getLogger(__name__)


def redacted(value: object) -> str:
    """Return a setting for the eye: without passwords."""
    from harness.common.redaction import redact

    return redact(str(value))


class Shown(Protocol):
    """An experiment with its numbers and its report."""

    @property
    def rows(self) -> "Sequence[Row]": ...  # noqa: D102
    @property
    def context(self) -> "Context": ...  # noqa: D102
    @property
    def report(self) -> "Report": ...  # noqa: D102


def print_reports(experiments: "Sequence[Shown]", as_json: bool) -> None:
    """Print tables for people, or the JSON of --json, for which no table is made."""
    if not as_json:
        for one in experiments:
            print_tables(one.report)
        return
    from harness.results.power import needs
    from harness.results.rows_json import SCHEMA, experiment_json

    listed = [
        {**experiment_json(one.rows, one.context), "power": [need.json for need in needs(one.rows, one.context)]}
        for one in experiments
    ]
    out(json.dumps({"schema": SCHEMA, "experiments": listed}, indent=1))


def print_tables(report: "Report") -> None:
    """Print a report's headline and tables, as wide as the terminal."""
    from harness.results.table import plain

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if report.headline:
        out("\n" + report.headline)
    for table in report.tables.values():
        out("\n" + plain(table, width))


def make_plan(
    words: list[str],
    seeds: int,
    preset: str | None,
    root: Path | None,
    folders: list[Path] | None,
    compute: bool = True,
    accept: bool = False,
    **flags: Any,
) -> "tuple[Plan, Resolved]":
    """Parse experiments and key=value, in any order, into a plan; without `compute` no data file is digested."""
    from harness.common.progress import Progress
    from harness.plan import plan

    names = [word for word in words if "=" not in word]
    if not names:
        raise UsageError("name an experiment, for example ablation_ensemble; `harness list experiments` lists them")
    config, settings = make_config([word for word in words if "=" in word], preset, root, folders, **flags)
    if os.path.isfile(settings.root):
        raise refused(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), settings.root)
    return plan.make(names, config, Path(settings.root), seeds, compute, accept, Progress()), settings


def make_config(
    overrides: list[str], preset: str | None, root: Path | None, folders: list[Path] | None, **flags: Any
) -> "tuple[Config, Resolved]":
    """Return the configuration: flags first, then harness.yaml, then what is built in; places before key=value."""
    from harness.config import compose as config
    from harness.config import settings

    given = {"preset": preset, "root": root and str(root), "plugins": folders and tuple(map(str, folders)), **flags}
    resolved = settings.resolve(**given)
    paths = [f"{key}={value}" for key, value in resolved.paths.items()]
    return config.compose(resolved.preset, [*paths, *overrides], resolved.plugins), resolved


def run_options(settings: "Resolved", **more: Any) -> "RunOptions":
    """Return the run options: the settings' and `more`."""
    from harness.config.settings import RunOptions

    return RunOptions.of(settings.settings, command=command_line(), **more)


def folders(given: list[Path] | None) -> tuple[str, ...]:
    """Return the folders of plug-ins: by flag, else by harness.yaml."""
    from harness.config import settings

    return tuple(settings.resolve(plugins=given and tuple(map(str, given))).plugins)


def first_line(plan: "Plan") -> str:
    """Return the line that says which setting runs, before anything else is printed."""
    from harness.plan.plan import setting
    from harness.results import paper

    facts = setting(plan.config)
    what = f"{facts['dataset']} videos, {paper.backbone(facts['encoder'])}, {paper.count(facts['epochs'], 'epoch')}"
    verdict = "not the paper's setting" if paper.not_the_papers(facts) else "the paper's setting"
    return f"preset {plan.config.preset}: {what}; {verdict}"


def command_line() -> tuple[str, ...]:
    """Return the command as a person would give it again, without secrets: it is kept, logged and printed."""
    return ("harness", *map(redacted, sys.argv[1:]))


def print_problems(masks: Path, split: str, problems: list[str], as_json: bool) -> None:
    """Print the problems of a submission, a line each. Raise UnfitError where there is one."""
    if as_json:
        facts = {"schema": 1, "masks": str(masks), "split": split, "fit": not problems, "problems": problems}
        out(json.dumps(facts, indent=1))
    else:
        for problem in problems[:SHOWN]:
            out(problem)
        if len(problems) > SHOWN:
            out(f"… and {len(problems) - SHOWN} more (--json lists all)")
    if problems:
        raise UnfitError(f"{masks}: the server would reject it: {len(problems)} problem(s)")
    log.info(f"{masks}: every frame of the {split} split is present, at its size, with classes only; ready to submit")
