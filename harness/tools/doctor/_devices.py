"""GPUs as the driver sees them against GPUs as torch can use them; the precision asked for; cores and memory."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.redaction import one_line
from harness.config.compose import Config
from harness.tools.doctor._finding import Finding, count, size

PART = "devices"
# NVIDIA's table of the oldest driver for each CUDA major version (CUDA compatibility, minor version compatibility)
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
CU126 = "the last torch built for CUDA 12.6 is 2.14 (docs/INSTALL.md)"
BF16_FROM = (8, 0)  # Ampere
NEWER_THAN_CU126 = (9, 0)  # from Hopper on, that build is not to be counted on


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it; a driver too old to say its compute capability leaves None."""

    name: str
    driver: str
    memory: int  # MiB
    capability: tuple[int, int] | None


def examine(machine: Mapping[str, Any], config: Config) -> Iterator[Finding]:
    """Devices, precision, and the host."""
    seen, failure = nvidia_smi()
    if failure and "No devices were found" in failure:
        yield Finding(PART, None, "the NVIDIA driver is here and has no GPU")
    elif failure:
        yield Finding(PART, False, f"nvidia-smi fails: {failure}", "have the NVIDIA driver installed or loaded anew")
    if "devices" in machine:
        yield from gpus(seen, machine, os.environ.get("CUDA_VISIBLE_DEVICES"))
        yield from precision(config["precision"], machine["devices"])
    yield from host(config.train.workers, max(1, len(machine.get("devices", []))))


def nvidia_smi() -> tuple[list[Gpu], str]:
    """The GPUs that the driver sees, and why it cannot say; neither where there is no nvidia-smi."""
    for fields in ("name,driver_version,memory.total,compute_cap", "name,driver_version,memory.total"):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except FileNotFoundError:
            return [], ""
        except (OSError, subprocess.TimeoutExpired) as error:
            return [], one_line(error)
        if done.returncode == 0:
            return [gpu(row) for row in done.stdout.splitlines() if row.count(",") >= 2], ""
    return [], one_line((done.stdout + done.stderr).strip() or f"exit code {done.returncode}")


def gpu(row: str) -> Gpu:
    """A row of nvidia-smi's table."""
    name, driver, memory, *rest = (cell.strip() for cell in row.split(","))
    found = re.fullmatch(r"(\d+)\.(\d+)", rest[0]) if rest else None
    capability = (int(found[1]), int(found[2])) if found else None
    return Gpu(name, driver, int(memory) if memory.isdecimal() else 0, capability)


def gpus(seen: Sequence[Gpu], machine: Mapping[str, Any], visible: str | None) -> Iterator[Finding]:
    """Each GPU that torch can use, and each that it cannot, with the reason and what to do."""
    usable = [device for device in machine["devices"] if not device["error"]]
    driver = f", driver {seen[0].driver}" if seen else ""
    for index, device in enumerate(machine["devices"]):
        capability = tuple(device["capability"])
        text = (
            f"GPU {index}: {device['name']}, {size(device['memory'])}{driver}, compute capability {dotted(capability)}"
        )
        if not device["error"]:
            yield Finding(PART, True, f"{text}: torch can use it")
        else:
            why, remedy = unusable(Gpu(device["name"], "", 0, capability), machine, device["error"])
            yield Finding(PART, False, f"{text}: torch cannot use it: {why}", remedy)
    hidden = len(seen) - len(machine["devices"])
    if hidden > 0 and visible is not None and (usable or not visible.strip()):
        text = f"CUDA_VISIBLE_DEVICES={visible or '(empty)'} hides {count(hidden, 'GPU')} of {len(seen)}"
        yield Finding(PART, None, text, "" if usable else "unset it to train on the GPU")
    elif hidden > 0 and not machine["devices"]:
        for one, number in distinct(seen).items():
            why, remedy = unusable(one, machine, machine["error"])
            memory = f", {size(one.memory * 2**20)}" if one.memory else ""
            text = f"{number} × {one.name}{memory}, driver {one.driver}: nvidia-smi sees it, torch"
            yield Finding(PART, False, f"{text} does not and would run on the CPU: {why}", remedy)
    elif hidden > 0:
        text = f"nvidia-smi sees {count(len(seen), 'GPU')}, torch {len(machine['devices'])}"
        yield Finding(PART, False, text, "look at `nvidia-smi` for GPUs that have fallen off the bus or are held")
    if not seen and not machine["devices"]:
        yield Finding(PART, None, "no GPU: jobs run on the CPU, which the demo is made for and the paper's setting not")


def unusable(one: Gpu, machine: Mapping[str, Any], error: str) -> tuple[str, str]:
    """Why torch cannot use a GPU, and what to do: the build, the driver, the architecture, else torch's own words."""
    torch = machine["packages"]["torch"]
    if not torch["cuda"]:
        return f"torch {torch['version']} is built without CUDA", "install the wheel for your driver (docs/INSTALL.md)"
    major = int(torch["cuda"].split(".")[0])
    oldest = OLDEST_DRIVER.get(major)
    if one.driver and oldest and numbers(one.driver) < numbers(oldest):
        why = f"torch {torch['version']} is built for CUDA {torch['cuda']}, which needs driver {oldest} or newer"
        if major <= 12 or (one.capability is not None and one.capability >= NEWER_THAN_CU126):
            return why, f"update the driver to {oldest} or newer"
        return why, f"update the driver, or install torch's cu126 build: {CU126}"
    if one.capability is not None and not serves(machine["archs"], one.capability):
        why = (
            f"torch {torch['version']} has no code for compute capability {dotted(one.capability)} "
            f"(sm_{one.capability[0]}{one.capability[1]}), only {', '.join(machine['archs'])}"
        )
        if one.capability < (7, 5):
            return why, f"install torch's cu126 build: {CU126}"
        return why, "install a newer torch (docs/INSTALL.md)"
    return one_line(error or "it gives no reason"), "run `python -c 'import torch; torch.cuda.init()'` and mend that"


def serves(archs: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether compiled code runs: sm_XY on the same X from minor Y on, compute_XY (translated) on all from XY on."""
    for arch in archs:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch)
        if found is None:
            continue
        built = int(found[2]), int(found[3])
        if built <= capability and (found[1] == "compute" or built[0] == capability[0]):
            return True
    return not archs


def precision(wanted: str, devices: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Whether the precision of the config can be had where jobs will run."""
    usable = [device for device in devices if not device["error"]]
    moves = "it enters the fingerprint: numbers of other precisions are other jobs"
    if wanted == "fp16" and not usable:
        remedy = f"a GPU (on a cluster: ask inside an allocation), or precision=bf16 or fp32 ({moves})"
        yield Finding(PART, False, "precision=fp16 needs a GPU that torch can use", remedy)
    old = [device for device in usable if tuple(device["capability"]) < BF16_FROM]
    if wanted == "bf16" and old:
        capability = dotted(tuple(old[0]["capability"]))
        text = f"precision=bf16 needs compute capability 8.0, {old[0]['name']} has {capability}"
        yield Finding(PART, False, text, f"precision=fp16 or precision=fp32 ({moves})")


def host(workers: int, ranks: int, meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Cores that this process may use, and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    known = dict(re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(), re.M)) if meminfo.is_file() else {}
    memory = "; memory is not known"
    if {"MemTotal", "MemAvailable"} <= set(known):
        total, free = (int(known[key]) * 1024 for key in ("MemTotal", "MemAvailable"))
        memory = f", {size(total)} of memory, {size(free)} of it free"
    yield Finding(PART, None, f"{count(cores, 'core')}{memory}")
    if workers * ranks > cores:
        text = (
            f"train.workers={workers} on {count(ranks, 'rank')} is {workers * ranks} loading processes on {cores} cores"
        )
        yield Finding(PART, None, text, f"train.workers={max(0, cores // ranks)} (it moves no number)")


def distinct(seen: Sequence[Gpu]) -> dict[Gpu, int]:
    """Equal GPUs counted."""
    return {one: list(seen).count(one) for one in dict.fromkeys(seen)}


def dotted(capability: tuple[int, ...]) -> str:
    """`8.0`."""
    return ".".join(map(str, capability))


def numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
