"""Child of the doctor: imports torch, torchvision and timm, tries every device, and answers with one JSON value."""

import importlib
import json
import warnings
from typing import Any

from harness.tools.doctor._child import answer


def main() -> None:
    """Answer on stdout."""
    with answer() as out:
        found: dict[str, Any] = {"packages": {}}
        for name in ("torch", "torchvision", "timm"):
            found["packages"][name] = imported(name)
        if "version" in found["packages"]["torch"]:
            found |= devices()
        if "version" in found["packages"]["torchvision"]:
            found["nms"] = nms()
        json.dump(found, out)


def imported(name: str) -> dict[str, str]:
    """Version of a package and the CUDA it was built with, or the error of its import."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken installation has its own errors
        return {"error": f"{type(error).__name__}: {error}"}
    cuda = getattr(getattr(module, "version", None), "cuda", None)
    if isinstance(cuda, int):  # torchvision's newer wheels: 13000 is 13.0
        cuda = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda > 0 else ""
    return {"version": str(module.__version__), "cuda": str(cuda or "")}


def nms() -> str:
    """The error of one operator of torchvision's own library; empty where it runs."""
    import torch
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def devices() -> dict[str, Any]:
    """What torch makes of the GPUs: the architectures it was built for, and for each device whether a sum runs."""
    import torch

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        available, error = torch.cuda.is_available(), ""
        if not available:
            try:
                torch.cuda.init()  # type: ignore[no-untyped-call]
            except Exception as failure:
                error = str(failure)
    return {
        "hip": torch.version.hip or "",
        "archs": torch.cuda.get_arch_list() if torch.version.cuda else [],
        "error": error or " ".join(str(warning.message) for warning in heard),
        "devices": [device(index) for index in range(torch.cuda.device_count())] if available else [],
    }


def device(index: int) -> dict[str, Any]:
    """One device as torch has it, and the error of a first computation on it."""
    import torch

    known = torch.cuda.get_device_properties(index)
    found = {"name": known.name, "capability": [known.major, known.minor], "memory": known.total_memory, "error": ""}
    try:
        (torch.ones(8, device=f"cuda:{index}") + 1).sum().item()
    except Exception as error:
        found["error"] = str(error).split("\n")[0]
    return found


if __name__ == "__main__":
    main()
