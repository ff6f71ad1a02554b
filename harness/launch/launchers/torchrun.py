"""Several ranks on one node, started by torchrun: NCCL on GPUs, gloo on CPUs."""

import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from harness.common import child
from harness.launch.launchers._environment import child_environment

LOOPBACK = "127.0.0.1"  # where the ranks of one node meet, whatever its own name resolves to
LOOPBACK_DEVICE = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


class Launcher:
    """One torchrun for each launch. Its exit code says nothing (1 after any signal): outcomes are read from files."""

    def __init__(self, nproc: int, logs: Path) -> None:
        self.nproc = nproc
        self.log = logs / "torchrun.log"
        self._agent: subprocess.Popen[bytes] | None = None

    def warm(self) -> None:
        """Do nothing: its ranks are made anew for every launch."""

    def start(self, directories: Sequence[Path]) -> None:
        """Start the ranks. Call from the main thread: they die with the thread that started them."""
        meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{LOOPBACK}:0", "--rdzv-id", uuid.uuid4().hex)
        command = [*self.torchrun(*meeting, "--local-addr", LOOPBACK), *map(str, directories)]
        self._run(command, {**child_environment(), **LOOPBACK_DEVICE})

    def torchrun(self, *rendezvous: str) -> list[str]:
        """Return one node's torchrun, up to the job directories."""
        return [
            *child.python("-m", "harness.launch.launchers._agent", *rendezvous),
            *("--nproc-per-node", str(self.nproc), "--max-restarts", "0"),
            *("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGUSR1,SIGUSR2", "--shutdown-timeout", "300"),
            *("-m", "harness.engine.worker"),
        ]

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self._agent = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
            )

    def running(self) -> bool:
        """Return whether torchrun and its ranks are still there."""
        return self._agent is not None and self._agent.poll() is None

    def signal(self, number: int) -> None:
        """Pass a signal on; torchrun hands it to every rank."""
        if self._agent is not None and self._agent.poll() is None:
            self._agent.send_signal(number)

    def close(self) -> None:
        """End what may still run."""
        if self.running():
            assert self._agent is not None
            self._agent.kill()
