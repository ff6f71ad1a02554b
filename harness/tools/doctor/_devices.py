"""GPUs as the driver sees them against GPUs as torch can use them; the precision asked for; cores and memory."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.common.redaction import one_line
from harness.config.compose import Config
from harness.tools.doctor._facts import Device, Machine, Package
from harness.tools.doctor._finding import Finding, count, size

PART = "devices"
WHICH = "docs/INSTALL.md lists torch builds by GPU and driver"


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it."""

    name: str
    driver: str
    memory: int  # MiB


def examine(machine: Machine, config: Config) -> Iterator[Finding]:
    """Return findings on devices, precision, and the host."""
    listed, failure = nvidia_smi()
    if failure and "No devices were found" in failure:
        yield Finding(PART, None, "an NVIDIA driver is installed, but there is no GPU")
    elif failure:
        yield Finding(PART, False, f"nvidia-smi fails: {failure}", "have the NVIDIA driver reinstalled or reloaded")
    if machine.torch:
        yield from gpus(listed, machine, os.environ.get("CUDA_VISIBLE_DEVICES"))
        yield from precision(config["precision"], machine.devices)
    yield from host(config.train.workers, max(1, len(machine.devices)))


def nvidia_smi() -> tuple[list[Gpu], str]:
    """Return the GPUs that the driver lists, and why it cannot; neither where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return [], ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], one_line(error)
    if done.returncode:
        return [], one_line((done.stdout + done.stderr).strip() or f"exit code {done.returncode}")
    return [gpu(line) for line in done.stdout.splitlines() if line.count(",") >= 2], ""


def gpu(line: str) -> Gpu:
    """Return a line of nvidia-smi's table."""
    name, driver, memory = (column.strip() for column in line.split(",")[:3])
    return Gpu(name, driver, int(memory) if memory.isdecimal() else 0)


def gpus(listed: Sequence[Gpu], machine: Machine, visible: str | None) -> Iterator[Finding]:
    """Return findings on each GPU that torch can use, and each that it cannot, with the reason and what to do."""
    usable = [device for device in machine.devices if not device.error]
    driver = f", driver {listed[0].driver}" if listed else ""
    for index, device in enumerate(machine.devices):
        capability = ".".join(map(str, device.capability))
        text = f"GPU {index}: {device.name}, {size(device.memory)}{driver}, compute capability {capability}"
        if not device.error:
            yield Finding(PART, True, f"{text}: torch can use it")
        else:
            why, remedy = unusable(machine, device.error)
            yield Finding(PART, False, f"{text}: torch cannot use it: {why}", remedy)
    hidden = len(listed) - len(machine.devices)
    none = visible is not None and (not visible.strip() or visible.strip().startswith("-"))
    if hidden > 0 and visible is not None and (usable or none):
        text = f"CUDA_VISIBLE_DEVICES={visible or '(empty)'} hides {count(hidden, 'GPU')} of {len(listed)}"
        yield Finding(PART, None, text, "" if usable else "unset it to train on the GPU")
    elif hidden > 0 and not machine.devices:
        why, remedy = unusable(machine, machine.error)
        for each, number in Counter(listed).items():
            memory = f", {size(each.memory * 2**20)}" if each.memory else ""
            text = f"{number} × {each.name}{memory}, driver {each.driver}: nvidia-smi sees it, torch"
            yield Finding(PART, False, f"{text} does not and would run on the CPU: {why}", remedy)
    elif hidden > 0:
        text = f"nvidia-smi sees {count(len(listed), 'GPU')}, torch {len(machine.devices)}"
        yield Finding(PART, False, text, "look in `nvidia-smi` for GPUs that have fallen off the bus or are in use")
    if not listed and not machine.devices:
        yield Finding(
            PART, None, "no GPU: jobs run on the CPU, which is fine for the demo but not for the paper's setting"
        )


def unusable(machine: Machine, error: str) -> tuple[str, str]:
    """Return why torch cannot use a GPU, in its own words and with what it was built for; and what to do."""
    torch = machine.torch or Package()
    if not torch.cuda and not machine.hip:
        return f"torch {torch.version} is built without CUDA", "install the wheel for your driver (docs/INSTALL.md)"
    built = f"torch {torch.version} is built for CUDA {torch.cuda} and {', '.join(machine.archs)}"
    remedy = f"update the driver, or install another build of torch: {WHICH}"
    return f"{one_line(error or 'it gives no reason')} ({built})", remedy


def precision(wanted: str, devices: Sequence[Device]) -> Iterator[Finding]:
    """Return findings on whether the precision of the config can be had where jobs will run."""
    usable = [device for device in devices if not device.error]
    moves = "it is part of the fingerprint: other precisions are other jobs"
    if wanted == "fp16" and not usable:
        remedy = f"use a GPU (on a cluster, run this inside an allocation), or precision=bf16 or fp32 ({moves})"
        yield Finding(PART, False, "precision=fp16 needs a GPU that torch can use", remedy)
    without = [device.name for device in usable if not device.bf16]
    if wanted == "bf16" and without:
        text = f"precision=bf16 needs a GPU that supports it; {without[0]} does not"
        yield Finding(PART, False, text, f"precision=fp16 or precision=fp32 ({moves})")


def host(workers: int, ranks: int, meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Yield the cores that this process may use, and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    entries = dict(re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(), re.M)) if meminfo.is_file() else {}
    memory = "; memory unknown"
    if {"MemTotal", "MemAvailable"} <= set(entries):
        total, free = (int(entries[key]) * 1024 for key in ("MemTotal", "MemAvailable"))
        memory = f", {size(total)} of memory, {size(free)} of it free"
    yield Finding(PART, None, f"{count(cores, 'core')}{memory}")
    if workers * ranks > cores:
        text = (
            f"train.workers={workers} on {count(ranks, 'rank')} is {workers * ranks} loading processes on {cores} cores"
        )
        yield Finding(PART, None, text, f"train.workers={max(0, cores // ranks)} (results do not depend on it)")
