"""The sources that a job's numbers come from, as digests: so that a changed file shows on results made before it.

A job's sources are the engine's entry of its kind and the plug-ins it uses, with everything of models/,
harness/engine/, harness/data/ (but hold_out, which has a VERSION) and the metrics that they import, and for plug-ins of
a person's own with every file they import that is neither installed (site-packages) nor of the standard library. Read
from the import statements; nothing is run.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from harness.common.atomic_files import read_json
from harness.common.errors import UsageError
from harness.config import metrics, plugins
from harness.plan.job import Job, Train
from harness.plan.plan import Plan

WITHIN = (
    "models/",
    "harness/engine/",
    "harness/data/datasets/",
    "harness/data/contract.py",
    "harness/data/frame_order.py",
    "harness/data/stream.py",
    "harness/data/augmentation.py",
    "harness/data/pictures.py",
    "harness/results/metrics/",
)
OURS = ("harness/", "models/", "experiments/", "reports/")  # of the project, no person's own
INSTALLED = {"site-packages", "dist-packages"}
# "now": digests of today's files; "before": of earlier ones, by their names then, that computed the same numbers
EQUAL = Path(__file__).with_name("equal_sources.json")


def digests(job: Job) -> dict[str, str]:
    """Return file -> 12 hex digits of its text's sha256, for all sources of a job; our own files by relative path."""
    return {label(path): digest(path) for path in sorted(closure(*entries(job)))}


def entries(job: Job) -> list[Path]:
    """Return the files where a job's computation starts: the engine, and the plug-ins it uses."""
    config = job.config
    kind = "train" if isinstance(job, Train) else "evaluate"
    counted = [] if isinstance(job, Train) else metrics.counted(config)
    decoders = [job.decoder] if isinstance(job, Train) else [member.decoder for member in job.members]
    return [
        plugins.PROJECT / "harness" / "engine" / f"{kind}.py",
        plugins.find("datasets", config["data"]["name"], config.folders),
        plugins.find("encoders", config["encoder"]["name"], config.folders),
        *(plugins.find("decoders", name, config.folders) for name in decoders),
        *(plugins.find("metrics", metric.name, config.folders) for metric in counted),
    ]


def closure(*paths: Path) -> set[Path]:
    """Return the files and all that they import, as far as it lies WITHIN or is a person's own."""
    files: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += [other for other in imports(path) if label(other).startswith(WITHIN) or own(other)]
    return files


def own(path: Path) -> bool:
    """Return whether a file is a person's: not of the project, the standard library or an installed package."""
    if path.is_relative_to(plugins.PROJECT) and label(path).startswith(OURS):
        return False
    standard = any(path.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
    return not standard and INSTALLED.isdisjoint(path.parts)


@cache
def imports(path: Path) -> tuple[Path, ...]:
    """Return the files that a file imports: the project's, and for a person's own file those of modules it can see."""
    if path.suffix != ".py":  # compiled
        return ()
    files: list[Path] = []
    for name, level in imported_names(path):
        stem = plugins.PROJECT / name.replace(".", "/")
        ours = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
        ours = [path for path in ours if path.stat().st_size]  # most packages are folders, with nothing to compute
        if name and level == 0 and ours:
            files += ours
        elif own(path):
            files += relative(path, name, level) if level else absolute(name)
    return tuple(dict.fromkeys(files))


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names of a file's import statements, with the number of leading dots; `from a import b` is also a.b."""
    try:
        tree = plugins.parse(path)
    except UsageError:  # of another Python, imported on a condition; the plug-in itself was read before
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module, node.level
            yield from ((f"{module}.{alias.name}".lstrip("."), node.level) for alias in node.names)


def relative(path: Path, name: str, level: int) -> list[Path]:
    """Return the files of a relative import: the module's, and each package's __init__.py on the way."""
    folder = path.parents[min(level, len(path.parents)) - 1]
    files = [folder / "__init__.py"]
    for part in filter(None, name.split(".")):
        files += [folder / f"{part}.py", folder / part / "__init__.py"]
        folder /= part
    return [file for file in files if file.is_file()]


def absolute(name: str) -> list[Path]:
    """Return the files of a person's own module that Python's path leads to, and of the packages it is in."""
    first, *rest = name.split(".")
    if not first or first in sys.stdlib_module_names:
        return []
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(first)
    except ValueError:  # a module in memory without a spec
        return []
    files: list[Path] = []
    while spec is not None:
        if spec.has_location and spec.origin:
            files.append(Path(spec.origin))
        if not rest or spec.submodule_search_locations is None:
            break
        spec = PathFinder.find_spec(f"{spec.name}.{rest.pop(0)}", list(spec.submodule_search_locations))
    return [file for file in files if file.is_file() and own(file)]


@cache
def digest(path: Path) -> str:
    """Return 12 hex digits of the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def label(path: Path) -> str:
    """Return a file's path inside the project, or its own path for a person's own plug-in."""
    return path.relative_to(plugins.PROJECT).as_posix() if path.is_relative_to(plugins.PROJECT) else str(path)


def changed(plan: Plan, job: Job) -> list[str]:
    """Return the sources of a finished job that differ from what it ran with, or from what was accepted since."""
    files = plan.jobdir(job)
    ran = read_json(files.accepted_file) or files.how().get("sources")
    if ran is None:
        return []
    now, equal = digests(job), read_json(EQUAL)
    same = {name: {*equal["before"].get(name, ()), equal["now"].get(name)} for name in ran}
    ran = {name: value for name, value in ran.items() if value not in same[name]}
    now = {name: value for name, value in now.items() if value != equal["now"].get(name)}
    # another folder of a person's is not another source; two files of one name are told apart by their content
    names, before = (
        {(Path(name).name if Path(name).is_absolute() else name, value) for name, value in files.items()}
        for files in (now, ran)
    )
    return sorted({name for name, _ in names ^ before})
