"""Whether this user may write in an output directory that others use too."""

import os
from pathlib import Path

from harness.common.errors import SHARE, UnfitError, refused
from harness.jobdir.paths import OutputDir
from harness.plan.plan import Plan


def writable(root: Path) -> None:
    """Make the root, or raise UnfitError."""
    try:
        OutputDir(root).jobs.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        probe.write_bytes(b"x")  # an empty file fits on a full disk
        probe.unlink()
    except OSError as error:
        raise refused(error, root) from error


def closed(plan: Plan) -> Path | None:
    """Return what this user may not write of that which every run of the plan writes; None where all is open."""
    output = plan.output
    reports = [output.report_folder(experiment.name, experiment.digest) for experiment in plan.experiments]
    folders = [output.jobs, output.plans, output.reports, output.reports / "plans"]
    paths = [plan.root, *folders, output.upload_lock, *reports]
    paths += [path for folder in reports for path in folder.rglob("*")]
    return next((path for path in paths if path.exists() and not os.access(path, os.W_OK)), None)


def check(plan: Plan) -> None:
    """Raise UnfitError where a run of the plan would fail at what it writes, the report after the last job included."""
    writable(plan.root)
    if (path := closed(plan)) is not None:
        raise UnfitError(f"{path}: Permission denied; {SHARE}")
