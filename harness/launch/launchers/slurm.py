"""Ranks on every node of a Slurm allocation: srun starts one torchrun per node, inside the allocation.

How a plan gets there is harness/launch/slurm_jobs.py's; what sbatch is told is _sbatch.py's.
"""

import os
import shlex
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.common.errors import UnfitError
from harness.launch.launchers import torchrun
from harness.launch.launchers._environment import child_environment
from harness.launch.launchers._sbatch import PYTHON, SRUN_ARGS, nodes_of

JOIN = 300  # seconds that nodes wait for each other before the first step; less than `stall`
INHERITED = (
    "SLURM_CPU_BIND",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_STEP",
    "SLURM_DISTRIBUTION",
)


class Launcher(torchrun.Launcher):
    """One srun for each launch, with a torchrun on each node; they meet at the first node.

    Each knows by Slurm which node it is on (_agent.py). torchrun's elastic rendezvous could do without that, but there
    a first node that is through with its share of an evaluation ends the others' ranks 5 minutes later.
    """

    def __init__(self, nproc: int, logs: Path) -> None:
        super().__init__(nproc, logs)
        self.log = logs / f"slurm-{os.environ.get('SLURM_JOB_ID', 'none')}.log"

    def start(self, directories: Sequence[Path]) -> None:
        """Start the ranks on all nodes. Raise UnfitError outside an allocation."""
        if "SLURM_JOB_ID" not in os.environ:
            raise UnfitError(
                "launcher slurm starts ranks inside an allocation; `harness run --launcher slurm` creates one"
            )
        nodes = nodes_of(os.environ["SLURM_JOB_NODELIST"])
        port = free_port(int(os.environ["SLURM_JOB_ID"]))
        cpus = os.environ.get("SLURM_CPUS_PER_TASK")
        self._run(
            [
                *("srun", "--overlap", "--kill-on-bad-exit=0", "--cpu-bind=none", "--label"),
                *(f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1"),
                *((f"--cpus-per-task={cpus}",) if cpus else ()),
                *shlex.split(os.environ.get(SRUN_ARGS, "")),
                *self.torchrun(
                    *("--nnodes", str(len(nodes)), "--master-addr", nodes[0], "--master-port", str(port)),
                    *("--rdzv-conf", f"timeout={JOIN}"),
                ),
                *map(str, directories),
            ],
            {key: value for key, value in child_environment().items() if not key.startswith(INHERITED)},
        )

    def torchrun(self, *rendezvous: str) -> list[str]:
        """Return one node's torchrun: with another Python (a container's) where the job was given one."""
        own, *rest = super().torchrun(*rendezvous)
        return [*(shlex.split(os.environ.get(PYTHON, "")) or [own]), *rest]

    def signal(self, number: int) -> None:
        """Ask the ranks to save and end; after a SIGKILL Slurm kills them within its KillWait.

        srun forwards SIGUSR2; a SIGTERM makes it end the step instead.
        """
        super().signal(signal.SIGTERM if number == signal.SIGKILL else signal.SIGUSR2)

    def close(self) -> None:
        """End what may still run: without its srun it would go on to the end of the allocation."""
        self.signal(signal.SIGKILL)


def free_port(number: int) -> int:
    """Return a free port of this node, which is the first; below those that the kernel gives out by itself.

    Each job's number begins the search elsewhere.
    """
    for port in (20000 + (number + step) % 12000 for step in range(12000)):
        with suppress(OSError), socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch does: one just left is free
            tried.bind(("", port))
            return port
    raise UnfitError("all ports from 20000 to 31999 are taken on this node")
