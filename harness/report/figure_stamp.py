"""Whether a report's figures are there as they would be drawn again: by what they are drawn from, and by their bytes.

Figures are functions of a report's rows and context (harness/results/figure), of our sources, and of the libraries that
draw. The stamp names all three and each file's sha256, so that what was edited, removed or drawn by another version is
drawn anew. Reports from outside the project may look at anything: their figures are always drawn.
"""

import hashlib
import pickle
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from harness.common.atomic_files import JsonObject, read_json, write_json
from harness.common.errors import UnfitError
from harness.config.plugins import PROJECT
from harness.results.rows import Context, Row
from harness.results.table import Report

NAME = "figures.json"
SOURCES = ("reports", "harness/results")
LIBRARIES = ("matplotlib", "seaborn", "numpy", "pandas", "pillow", "kiwisolver", "contourpy")


def inputs(report: Report, rows: Sequence[Row], context: Context) -> str | None:
    """Return a digest of all that figures are drawn from and by; None for a report that is not the project's own."""
    if not report.source.startswith("reports."):
        return None
    digest = hashlib.sha256(pickle.dumps((rows, context), protocol=5))
    for path in sorted(path for name in SOURCES for path in (PROJECT / name).rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(repr([report.source, sys.version, *((name, version(name)) for name in LIBRARIES)]).encode())
    return digest.hexdigest()


def current(files: Sequence[str], inputs: str | None, folder: Path) -> bool:
    """Return whether every figure is in the folder as it would be drawn."""
    try:
        stored = read_json(folder / NAME)
        return bool(stored) and stored == stamp(files, inputs, folder)
    except (OSError, UnfitError):
        return False


def keep(files: Sequence[str], inputs: str | None, folder: Path) -> None:
    """Write the stamp of figures that were just drawn. Raise OSError."""
    if inputs is not None and files:
        write_json(folder / NAME, stamp(files, inputs, folder))


def stamp(files: Sequence[str], inputs: str | None, folder: Path) -> JsonObject:
    """Return the stamp of the figures as they lie in the folder. Raise OSError where one does not."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    return {"schema": 1, "inputs": inputs, "files": digests}
