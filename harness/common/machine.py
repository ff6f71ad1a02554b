"""Devices, cores, memory and user of this machine, asked without torch."""

import getpass
import os
import resource
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

from harness.common.errors import UnfitError

SHM = Path("/dev/shm")
SLACK = 2**16  # bytes of queues and their semaphores
FILES, EACH = 64, 16  # open files of a rank itself, and for each of its loading processes


def ranks(micro_batch: int, gpus: int, nodes: int = 1) -> int:
    """Return the most ranks a node, one a GPU, that share a micro-batch evenly; at least one."""
    return max((n for n in range(1, gpus + 1) if micro_batch % (n * nodes) == 0), default=1)


def gpus() -> int:
    """Return GPUs of this node that CUDA_VISIBLE_DEVICES leaves, without importing torch."""
    listed, visible = listed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None and visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return len(list(takewhile(lambda name: name and not name.startswith("-"), names)))  # CUDA stops at the first -1
    return listed or 0


def listed_gpus() -> int | None:
    """Return the GPUs of this node, hidden ones too; None where no nvidia-smi says."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def hidden_gpus() -> str | None:
    """Return in words that CUDA_VISIBLE_DEVICES hides all GPUs; None where it does not, or there are none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not (listed := listed_gpus()) or gpus():
        return None
    return f"CUDA_VISIBLE_DEVICES={visible or '(empty)'} hides the {listed} GPU(s) here: this runs on the CPU; unset it"


def room_for_loading(workers: int, batch: int) -> None:
    """Raise UnfitError where loading processes, each with a batch of so many bytes ready, would wait for ever or die.

    The limit of open files is raised first as far as this process may.
    """
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = FILES + EACH * workers
    if resource.RLIM_INFINITY != files < need:
        files = need if most == resource.RLIM_INFINITY else min(need, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    if resource.RLIM_INFINITY != files < need:
        raise UnfitError(
            f"at most {files} files may be open at once (ulimit -n) and train.workers={workers} need {need}: "
            "ulimit -n 4096, or train.workers=0 (results do not depend on it)"
        )
    memory = workers * batch + SLACK
    if SHM.is_dir() and (free := shutil.disk_usage(SHM).free) < memory:
        raise UnfitError(
            f"{SHM} has {free / 2**20:.2f} MiB free and train.workers={workers} need {memory / 2**20:.2f}: "
            "give the container more (docker run --shm-size=8g, or --ipc=host), or set train.workers=0 "
            "(results do not depend on it)"
        )


def user() -> str:
    """Return this user's name, or number where a container knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return str(os.getuid())


def threads() -> str | None:
    """Return the threads of a rank that the environment asks for: HARNESS_THREADS, else OMP_NUM_THREADS, else None.

    Of a list as OpenMP takes it for nested loops ("4,2") the first counts; what is no number asks for nothing.
    """
    asked = os.environ.get("HARNESS_THREADS") or os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return asked if asked.isdecimal() and int(asked) > 0 else None


def import_numpy() -> None:
    """Import numpy without a thread for each core, which would wait actively, unless the environment names a number.

    For commands that compute little; the environment stays as it was for ranks, whose torch may use OpenBLAS as well.
    """
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        try:
            import numpy  # noqa: F401
        finally:
            del os.environ["OPENBLAS_NUM_THREADS"]
