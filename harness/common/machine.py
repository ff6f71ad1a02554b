"""What this machine has, asked without torch."""

import os
import subprocess
from itertools import takewhile


def ranks(micro_batch: int, gpus: int, nodes: int = 1) -> int:
    """The most ranks a node, one a GPU, that share a micro-batch evenly; at least one."""
    return max((n for n in range(1, gpus + 1) if micro_batch % (n * nodes) == 0), default=1)


def gpus() -> int:
    """GPUs of this node that CUDA_VISIBLE_DEVICES leaves, without importing torch."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return len(list(takewhile(lambda name: name and not name.startswith("-"), names)))  # CUDA stops at the first -1
    return sum(line.startswith("GPU ") for line in listed.splitlines())
