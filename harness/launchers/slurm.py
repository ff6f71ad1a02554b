"""Ranks on every node of a Slurm allocation: srun starts one torchrun a node. Runs inside the allocation.

How a plan gets there is harness/cluster.py's; what sbatch is told is _sbatch.py's.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UnfitError
from harness.launchers import torchrun
from harness.launchers._environment import child_environment
from harness.launchers._sbatch import nodes_of

INHERITED = (
    "SLURM_CPU_BIND",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_STEP",
    "SLURM_DISTRIBUTION",
)


class Launcher(torchrun.Launcher):
    """One srun for each launch, with a torchrun on each node, found by the first node's name and the job's number."""

    def __init__(self, nproc: int, logs: Path) -> None:
        super().__init__(nproc, logs)
        self.log = logs / f"slurm-{os.environ.get('SLURM_JOB_ID', 'none')}.log"

    def start(self, directories: Sequence[Path]) -> None:
        """Start the ranks on all nodes. Raises UnfitError outside an allocation."""
        if "SLURM_JOB_ID" not in os.environ:
            raise UnfitError(
                "launcher slurm starts ranks inside an allocation; `harness run --launcher slurm` makes one"
            )
        nodes = nodes_of(os.environ["SLURM_JOB_NODELIST"])
        port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 20000
        cpus = os.environ.get("SLURM_CPUS_PER_TASK")
        self._run(
            [
                *("srun", "--overlap", "--kill-on-bad-exit=0", "--cpu-bind=none"),
                *(f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1"),
                *((f"--cpus-per-task={cpus}",) if cpus else ()),
                *self.torchrun(
                    *("--nnodes", str(len(nodes)), "--rdzv-id", os.environ["SLURM_JOB_ID"]),
                    *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{nodes[0]}:{port}"),
                ),
                *map(str, directories),
            ],
            {key: value for key, value in child_environment().items() if not key.startswith(INHERITED)},
        )

    def signal(self, number: int) -> None:
        """Ask the ranks to save and end; after a SIGKILL Slurm kills them within its KillWait.

        srun forwards SIGUSR2; a SIGTERM makes it end the step instead.
        """
        super().signal(signal.SIGTERM if number == signal.SIGKILL else signal.SIGUSR2)
