"""The sources that a job's numbers come from, as digests: so that a changed file shows on results made before it.

A job's sources are the engine's entry of its kind and the plug-ins it uses, with everything of models/,
harness/engine/, harness/data/ (but hold_out, which has a VERSION) and the metrics that they import; read from the
import statements, nothing is run.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from harness.common.atomic_files import read_json
from harness.config import plugins
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
    "harness/results/metrics.py",
)
# "now": digests of today's files; "before": of earlier ones, by their names then, that computed the same numbers
EQUAL = Path(__file__).with_name("equal_sources.json")


def digests(job: Job) -> dict[str, str]:
    """Return file -> 12 hex digits of its text's sha256, for all sources of a job; our own files by relative path."""
    return {label(path): digest(path) for path in sorted(closure(*entries(job)))}


def entries(job: Job) -> list[Path]:
    """Return the files where a job's computation starts: the engine, and the plug-ins it uses."""
    config = job.config
    kind = "train" if isinstance(job, Train) else "evaluate"
    decoders = [job.decoder] if isinstance(job, Train) else [member.decoder for member in job.members]
    return [
        plugins.PROJECT / "harness" / "engine" / f"{kind}.py",
        plugins.find("datasets", config["data"]["name"], config.folders),
        plugins.find("encoders", config["encoder"]["name"], config.folders),
        *(plugins.find("decoders", name, config.folders) for name in decoders),
    ]


def closure(*paths: Path) -> set[Path]:
    """Return the files and, as far as they lie WITHIN, all that they import."""
    files: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += [other for other in imports(path) if label(other).startswith(WITHIN)]
    return files


@cache
def imports(path: Path) -> tuple[Path, ...]:
    """Return the project's files that a file imports."""
    files = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = plugins.PROJECT / (name.replace(".", "/") + ".py")
            if file.is_file():
                files.append(file)
    return tuple(dict.fromkeys(files))


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
    names = {Path(name).name if Path(name).is_absolute() else name: value for name, value in now.items()}
    before = {Path(name).name if Path(name).is_absolute() else name: value for name, value in ran.items()}
    return sorted(name for name in names.keys() | before.keys() if names.get(name) != before.get(name))
