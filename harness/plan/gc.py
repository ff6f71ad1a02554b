"""Files under a root that nobody refers to, and their sizes.

Every plan that is run leaves root/plans/<digest>.json with the fingerprints of its jobs, a search one for each trial;
that is what "referred to" means. A plan is forgotten by deleting its file. Never listed: what a living run holds,
score rows, reports, and what the harness did not make.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UnfitError
from harness.jobdir import lease
from harness.jobdir.paths import OutputDir


@dataclass(frozen=True)
class Item:
    """Something that may go."""

    path: Path
    why: str
    bytes: int


def referred(root: Path) -> set[str]:
    """Return the fingerprints that some plan names."""
    return {name for path in OutputDir(root).plans.rglob("*.json") for name in read_json(path).get("jobs", ())}


def refer(root: Path, name: str, jobs: list[str]) -> None:
    """Note jobs (fingerprints) that no experiment names: those of a search's trial, under root/plans/trials."""
    path = OutputDir(root).plans / "trials" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"jobs": jobs})


def garbage(root: Path, rehearsing: bool = False) -> list[Item]:
    """Return the files that may go, largest first. `rehearsing`: a rehearsal is to come, though no job of it is begun.

    Raise UnfitError where no plan is kept beside jobs: nobody can say then what is referred to.
    """
    output = OutputDir(root)
    if any(files.job_file.exists() for files in output.job_dirs()) and not output.plans.is_dir():
        raise UnfitError(f"{root}: has jobs but no plans/, so it is unknown which are needed; nothing is listed")
    return sorted(_items(root, referred(root), rehearsing), key=lambda item: -item.bytes)


def _items(root: Path, referenced: set[str], rehearsing: bool) -> Iterator[Item]:
    output = OutputDir(root)
    for files in output.job_dirs():
        job, checkpoints = files.folder, files.checkpoints
        if not files.job_file.exists() or lease.current_holder(job) is not None:
            continue
        outcome = files.outcome()
        done = outcome is not None and outcome.status == "finished"
        if job.name not in referenced:
            yield Item(job, "no plan in plans/ refers to it", size(job))
            continue
        if done and any(checkpoints.glob("*")):
            yield Item(checkpoints, "the training is finished", size(checkpoints))
        for path in [*job.glob(".*.tmp"), *job.glob("*/.*.tmp")]:
            if not (done and path.parent == checkpoints):
                yield Item(path, "left incomplete by a process that died", size(path))
    for path in sorted(output.replaced.glob("*")):
        yield Item(path, "replaced by a later run (--rerun)", size(path))
    rehearsal = output.rehearsal
    if rehearsal.is_dir() and not rehearsing and not at_work(OutputDir(rehearsal).jobs):
        yield Item(rehearsal, "left by --rehearse", size(rehearsal))


def delete(root: Path, items: list[Item]) -> int:
    """Delete them, but for what somebody has begun meanwhile; bytes that are free now."""
    freed = 0
    for item in items:
        if _begun(root, item.path):
            continue
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)
        freed += item.bytes
    return freed


def _begun(root: Path, path: Path) -> bool:
    output = OutputDir(root)
    if path == output.rehearsal:
        return at_work(OutputDir(path).jobs)
    if not path.is_relative_to(output.jobs):
        return False
    return lease.current_holder(output.job(path.relative_to(output.jobs).parts[0]).folder) is not None


def at_work(jobs: Path) -> bool:
    """Return whether somebody is at work on one of the jobs in a folder."""
    return any(lease.current_holder(job) is not None for job in jobs.glob("*/"))


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(below.stat().st_size for below in path.rglob("*") if below.is_file())
