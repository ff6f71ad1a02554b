"""Child of the doctor: imports torch, torchvision and timm, tries every device, and answers with one JSON value."""

import importlib
import json
import warnings
from dataclasses import asdict, replace

from harness.common.child import answer
from harness.tools.doctor._facts import Device, Machine, Package


def main() -> None:
    """Answer on stdout."""
    with answer() as out:
        machine = Machine({name: package(name) for name in ("torch", "torchvision", "timm")})
        if machine.torch:
            machine = with_devices(machine)
        if machine.packages["torchvision"].version:
            machine = replace(machine, nms=nms())
        json.dump(asdict(machine), out)


def package(name: str) -> Package:
    """Return the version of a package and the CUDA it was built with, or the error of its import."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken installation has its own errors
        return Package(error=f"{type(error).__name__}: {error}")
    cuda = getattr(getattr(module, "version", None), "cuda", None)
    if isinstance(cuda, int):  # torchvision's newer wheels: 13000 is 13.0
        cuda = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda > 0 else ""
    return Package(str(module.__version__), str(cuda or ""))


def nms() -> str:
    """Return the error of one operator of torchvision's own library; empty where it runs."""
    import torch
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def with_devices(machine: Machine) -> Machine:
    """Add torch's GPUs, the architectures it has code for, and why it has no GPU."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available, error = torch.cuda.is_available(), ""
        if not available:
            try:
                torch.zeros(1, device="cuda")
            except Exception as failure:
                error = str(failure)
    return replace(
        machine,
        hip=torch.version.hip or "",
        archs=tuple(torch.cuda.get_arch_list()) if torch.version.cuda else (),
        error=error or " ".join(str(warning.message) for warning in caught),
        devices=tuple(device(index) for index in range(torch.cuda.device_count())) if available else (),
    )


def device(index: int) -> Device:
    """Return one device as torch has it, with the error of a first computation on it."""
    import torch

    properties, error = torch.cuda.get_device_properties(index), ""
    try:
        (torch.ones(8, device=f"cuda:{index}") + 1).sum().item()
    except Exception as failure:
        error = str(failure).split("\n")[0]
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Device(properties.name, torch.cuda.get_device_capability(index), properties.total_memory, bf16, error)
