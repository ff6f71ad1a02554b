"""The root: whether it can be written, and its free space against what the missing jobs need at most."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.plan.job import Evaluate, Job, Train
from harness.tools.doctor._facts import Networks
from harness.tools.doctor._finding import Finding, count, size
from harness.tools.doctor._mounts import existing, network

PART = "disk"
NUMBER = 4  # bytes; checkpoints are float32
STATE = 3  # a checkpoint holds each parameter and AdamW's two moments
KEEP = 2  # checkpoints of a training that stay, as harness/engine/checkpoint.py has it
FEW_FILES = 10_000


def examine(root: Path, missing: Sequence[Job], networks: Networks, mounts: Path) -> Iterator[Finding]:
    """Yield findings of the root; nothing is made there that stays."""
    folder = existing(root)
    if problem := unwritable(folder):
        yield Finding(PART, False, f"{root}: {problem}", "choose another output directory with --root DIR")
        return
    free = shutil.disk_usage(folder).free
    trainings = [job for job in missing if isinstance(job, Train)]
    sizes = networks.parameters
    if trainings and all(job.decoder in sizes for job in trainings):
        yield enough(root, free, [sizes[job.decoder] for job in trainings], counts(missing))
    else:
        yield Finding(PART, True, f"{root} can be written, {size(free)} free")
    files = os.statvfs(folder)
    if files.f_files and files.f_favail < FEW_FILES:
        text = f"{root}: only {files.f_favail} more files fit on this file system (inodes)"
        yield Finding(PART, None, text, "delete small files there, or choose another output directory with --root DIR")
    if where := network(root, mounts):
        yield Finding(PART, None, f"{root} is on a network file system ({where}): good for many nodes, slower to write")


def unwritable(folder: Path) -> str:
    """Return why nothing can be written in a folder; empty where a file was written and removed."""
    if not folder.is_dir():
        return f"{folder} is a file"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".harness-doctor-") as probe:
            probe.write(b"\0")
            probe.flush()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return ""


def enough(root: Path, free: int, parameters: Sequence[int], evaluations: int) -> Finding:
    """Free space against the most that can lie there: every training broken off just before its end.

    Per training its weights and KEEP checkpoints; once more a checkpoint that is being written.
    """
    need = NUMBER * (sum(parameters) * (1 + KEEP * STATE) + max(parameters) * STATE) + evaluations
    jobs = f"{count(len(parameters), 'missing training')} and their evaluations"
    text = f"{root} can be written: {size(free)} free, {jobs} need at most {size(need)}"
    remedy = "" if need <= free else "free some space, or choose another output directory with --root DIR"
    return Finding(PART, need <= free, text, remedy)


def counts(missing: Sequence[Job]) -> int:
    """Return the bytes of the confusion matrices (K × K int64 a video) of the missing evaluations."""
    evaluations = [job for job in missing if isinstance(job, Evaluate)]
    contents = [(job.config.content, job.split) for job in evaluations]
    return sum(content.videos.get(split, 0) * (content.classes or 0) ** 2 * 8 for content, split in contents)
