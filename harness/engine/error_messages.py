"""Exceptions of a rank, each in one line that says what to do."""

from collections.abc import Mapping

import torch
import torch.distributed as dist

from harness.common.errors import HarnessError
from harness.plan.spec import EvaluateSpec, JobSpec, TrainSpec

PEERS = ("Connection closed by peer", "Connection reset by peer", "Socket closed", "peer", "NCCL")
MEMORY = ("cuda error: out of memory", "'out of memory'", "status_alloc_failed")  # CUDA's, NCCL's, cuBLAS's and cuDNN's
SHARED_MEMORY = (
    "shared memory",
    "bus error",
    "/torch_",
    "shm_open",
)  # of a loading process; torch's words for a full /dev/shm
FILES = ("too many open files", "ancdata")  # torch's words where a descriptor cannot be passed on
COMPILERS = ("torch._dynamo", "torch._inductor")
GIB = 2**30


def reason(error: BaseException, job: JobSpec | None) -> str:
    """Return the exception in a line; `job` is None where its job.yaml cannot be read."""
    message = " ".join(str(error).split())
    if isinstance(error, HarnessError):
        return message
    if isinstance(job, TrainSpec) and job.train.compile and type(error).__module__.startswith(COMPILERS):
        what = message.partition(" Set TORCHDYNAMO_VERBOSE")[0][:300]
        return f"train.compile=true: torch cannot compile this network here ({what}); leave the key out"
    if isinstance(error, torch.OutOfMemoryError) or any(word in message.lower() for word in MEMORY):
        return out_of_memory(job)
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in message.lower() and any(word in message for word in PEERS)
    ):
        return f"another rank ended first; its reason is in the log, or it was killed ({message[:160]})"
    if any(word in message.lower() for word in FILES):
        return f"too many open files: raise the limit (ulimit -n 4096) or set train.workers=0 ({message[:160]})"
    if any(word in message.lower() for word in SHARED_MEMORY):
        return (
            "/dev/shm is full: give the container more (docker run --shm-size=8g, or --ipc=host), or set "
            f"train.workers=0; results do not depend on it ({message[:160]})"
        )
    return f"{type(error).__name__}: {message}"[:500]


def out_of_memory(job: JobSpec | None) -> str:
    """Return the peak, and the keys that lower it: first those that move no number."""
    used = "an unknown peak"
    if torch.cuda.is_available():
        peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
        used = f"peak {peak / GIB:.1f} of {whole / GIB:.1f} GiB"
    if isinstance(job, EvaluateSpec):
        keys = "evaluate.window and evaluate.stride, or evaluate.short_side (all affect results)"
        if job.evaluate.window_batch is not None:
            keys = f"evaluate.window_batch (now {job.evaluate.window_batch}), else {keys}"
    elif isinstance(job, TrainSpec):
        keys = (
            f"more ranks for the micro-batch (--nproc; results stay the same), else train.micro_batch (now "
            f"{job.train.micro_batch}, batch norm's share), train.crop (now {job.train.crop}) or precision "
            f"(now {job.precision})"
        )
    else:
        keys = "a smaller train.micro_batch, train.crop or evaluate.window (all affect results), or another precision"
    return f"CUDA out of memory: {used}; to lower it, use {keys}"


def not_finite(iteration: int, values: Mapping[str, float], samples: list[str]) -> HarnessError:
    """Return a loss or gradient that is not finite in words, with the samples (video/frame) of its micro-batches."""
    kind = "loss" if "loss" in values else "gradient"
    listed = ", ".join(samples[:16]) + (f" and {len(samples) - 16} more" if len(samples) > 16 else "")
    return HarnessError(
        f"the {kind} is not finite at iteration {iteration}: {dict(values)}; samples {listed or 'unknown'}; "
        "inspect them, lower train.lr or use precision=fp32"
    )
