"""A node's GPUs while its ranks are at work: utilisation, memory and power, a line a sample in system/<node>.jsonl.

The first rank of each node measures, and only the GPUs that its job has. The supervisor tells MLflow, so a node that
cannot reach it, or a store that is away, loses nothing.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from harness.jobdir.events import Journal, Sample, read_events
from harness.jobdir.lease import SupersededError
from harness.jobdir.paths import JobDir

EVERY = 10.0  # seconds
PATIENCE = 5.0  # seconds that a reading may hold up a rank that is done


class Monitor:
    """Measures while it is entered: the jobs' `folders` get the same samples. Nothing where no GPU can be asked."""

    def __init__(self, folders: Sequence[Path], allowed: Callable[[], None], every: float = EVERY) -> None:
        self._paths = [JobDir(folder).system / f"{node()}.jsonl" for folder in folders]
        self._allowed, self._every = allowed, every
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if os.environ.get("LOCAL_RANK", "0") == "0" and readings():
            self._thread = threading.Thread(target=self._measure, name="monitor", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _measure(self) -> None:
        with suppress(SupersededError, OSError), ExitStack() as opened:  # ranks say that a disk is full, or a job lost
            counts = [len(read_events(path)[0]) for path in self._paths]  # samples of the attempts before
            diaries = [opened.enter_context(closing(Journal(path, self._allowed))) for path in self._paths]
            while not self._over.wait(self._every):
                values = readings()
                for at, diary in enumerate(diaries):
                    diary.write(Sample(step=counts[at], values=values))
                    counts[at] += 1


def node() -> str:
    """Return this node's name, as Slurm has it or as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def readings() -> dict[str, float]:
    """Return the readings of this node's GPUs by MLflow's names; {} without any, or without the extra `gpu`."""
    values: dict[str, float] = {}
    for at in range(min(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))):
        with suppress(Exception):  # NVML's own errors: a card may lack a sensor
            values[f"gpu_{at}_utilization_percentage"] = torch.cuda.utilization(at)
        with suppress(Exception):
            values[f"gpu_{at}_memory_usage_megabytes"] = torch.cuda.device_memory_used(at) / 1e6
        with suppress(Exception):
            values[f"gpu_{at}_power_usage_watts"] = torch.cuda.power_draw(at) / 1000  # mW
    return values
