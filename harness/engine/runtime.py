"""What a rank knows of its process: place, device, threads, seeds, the signal to stop, versions."""

import ctypes
import os
import platform
import random
import signal
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.core.errors import UnfitError
from harness.engine import PARENT

PREEMPTED_EXIT = 75
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow")
PR_SET_PDEATHSIG = 1


class Rank(NamedTuple):
    """Where this process stands among those of a launch."""

    rank: int
    world: int
    device: torch.device
    threads: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the journal."""
        return self.rank == 0


class Stopped(Exception):
    """Work was broken off because a signal asked for it; `status` is what to call it."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Stop:
    """The flag that signals set: SIGTERM, SIGUSR1 and SIGUSR2 mean preempted, SIGINT cancelled.

    While `idle` there is no work to save, and a signal ends the process at once.
    """

    def __init__(self) -> None:
        self.status: str | None = None
        self.idle = False
        self._owner = os.getpid()

    def install(self) -> None:
        """Take the signals over; call in the main thread."""
        for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"):
            signal.signal(getattr(signal, name), self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked data worker: the rank it works for saves, and then ends it
        self.status = self.status or ("cancelled" if number == signal.SIGINT else "preempted")
        if self.idle:
            raise SystemExit(PREEMPTED_EXIT)

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self.status is not None:
            raise Stopped(self.status)


def place() -> Rank:
    """This process's rank from the environment of torchrun, its device, and its threads, which are set here."""
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = int(os.environ.get("HARNESS_THREADS", "0")) or max(1, cores() // local_world)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    else:
        device = torch.device("cpu")
    return Rank(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), device, threads)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux only): no rank outlives its supervisor.

    Ends the process at once where the parent died while torch was being imported.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != PARENT:
            sys.exit(1)


def mix(*key: int) -> int:
    """One 63-bit seed of several non-negative numbers; equal keys, equal seed, whatever the process."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(*key: int) -> None:
    """Seed python, numpy, torch and CUDA as a function of `key`: no generator's state is ever saved (design §2.5)."""
    seed = mix(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # CUDA's generators too


def check_precision(device: torch.device, precision: str) -> None:
    """Raises UnfitError for fp16 on a CPU, where its gradients cannot be scaled."""
    if precision == "fp16" and device.type != "cuda":
        raise UnfitError("precision=fp16 needs a GPU; use precision=bf16 or fp32 on a CPU")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision of a forward pass, as a context.

    Without autocast's cache: a weight cast in a pass under no_grad (frame N-1) would come back without gradient.
    """
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=False)


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def provenance(rank: Rank) -> dict[str, Any]:
    """What a job ran on and with."""
    cuda = rank.device.type == "cuda"
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(rank.device) if cuda else platform.processor() or platform.machine(),
        "threads": rank.threads,
        "world": rank.world,
        "versions": versions(),
    }
