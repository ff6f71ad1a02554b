"""A rank's process: rank, device, threads, seeds, memory, versions."""

import os
import platform
import random
import resource
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError
from harness.engine.stop import Stop, Stopped

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow")

__all__ = ["Rank", "Stop", "Stopped"]  # the last two live where torch is not imported


class Rank(NamedTuple):
    """This process among those of a launch."""

    rank: int
    world: int
    device: torch.device
    threads: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the journal."""
        return self.rank == 0


def this_rank() -> Rank:
    """Return this process's rank from the environment of torchrun, its device, and its threads, which are set here."""
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
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def deterministic(enabled: bool) -> None:
    """Choose kernels that give the same bits twice where torch has them; it warns where it has none.

    Nothing changes on a CPU, whose kernels do so anyway for an equal number of threads. Attention is written out then,
    N² scores in memory: the fused kernels' gradients add up in any order unless an operation without such a kernel is
    an error.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(enabled, warn_only=True)
    torch.backends.cudnn.deterministic = enabled
    if torch.cuda.is_available():
        for fused in ("flash", "mem_efficient", "cudnn"):
            getattr(torch.backends.cuda, f"enable_{fused}_sdp")(not enabled)


class ExactPool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling as two matrix products: where bins overlap, the gradient of torch's own adds up in any
    order on a GPU.
    """

    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        """Resize x.  # (B, C, h, w) -> (B, C, side, side)"""
        with torch.autocast(x.device.type, enabled=False):
            rows, columns = (_bins(length, self.output_size).to(x) for length in x.shape[2:])
            return rows @ x @ columns.T


def _bins(length: int, side: int) -> Tensor:
    """Return each bin's equal shares of what lies in it.  # (side, length)"""
    low = torch.arange(side) * length // side
    high = -(-(torch.arange(side) + 1) * length // side)
    position = torch.arange(length)
    inside = (position >= low[:, None]) & (position < high[:, None])
    return inside / (high - low)[:, None]


def pool_exactly(model: nn.Module) -> None:
    """Have every adaptive average pooling of a model to a square give the same bits twice."""
    for module in model.modules():
        if type(module) is nn.AdaptiveAvgPool2d and isinstance(module.output_size, int) and module.output_size > 1:
            module.__class__ = ExactPool


def begin_peak(device: torch.device) -> None:
    """Count the peak anew, where it can be: a warm worker's jobs follow one another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """Return the most bytes in use since `begin_peak`: of the GPU's memory, or on a CPU of this process's, ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux


def seconds(device: torch.device) -> float:
    """Return a clock's time once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def mix(*key: int) -> int:
    """Return a 63-bit seed for several non-negative numbers; equal keys, equal seed, whatever the process."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(*key: int) -> None:
    """Seed python, numpy, torch and CUDA as a function of `key`: no generator's state is ever saved."""
    seed = mix(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # CUDA's generators too


def check_precision(device: torch.device, precision: str) -> None:
    """Raise UnfitError for fp16 on a CPU, where its gradients cannot be scaled."""
    if precision == "fp16" and device.type != "cuda":
        raise UnfitError("precision=fp16 needs a GPU; use precision=bf16 or fp32 on a CPU")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the precision of a forward pass, as a context.

    Without autocast's cache: a weight cast in a pass under no_grad (frame N-1) would come back without gradient.
    """
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=False)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    packages = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        packages["cuda"] = torch.version.cuda
    return packages


def provenance(rank: Rank) -> JsonObject:
    """Return the host, device and versions that a job ran with."""
    cuda = rank.device.type == "cuda"
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(rank.device) if cuda else platform.processor() or platform.machine(),
        "threads": rank.threads,
        "world": rank.world,
        "versions": versions(),
    }
