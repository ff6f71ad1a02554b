"""A real Slurm of one machine, with munge, for tests: own configuration, ports, sockets and key, all in one folder.

It refuses to start beside a slurmctld that is running: tests never speak to somebody's cluster.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from system_parts import need, program

CONFIG = """\
ClusterName=harness
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={d}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
KillWait=30
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=9
"""


@dataclass(frozen=True)
class Cluster:
    """A running Slurm; `environment` is what its users need."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            list(words), env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def state(self, number: str) -> str:
        """A job's state; its reason after it while it waits."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T %r", f"--jobs={number}")

    def wait(self, number: str, *states: str, seconds: float = 400) -> str:
        """Wait until a job is in one of some states."""
        deadline = time.monotonic() + seconds
        while (now := self.state(number).split()[0]) not in states:
            assert time.monotonic() < deadline, f"job {number} is {self.state(number)}, not {states}\n{self.said()}"
            time.sleep(0.5)
        return now

    def said(self) -> str:
        """The end of the daemons' logs."""
        logs = [path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log")]
        return "\n".join(logs)


def running(name: str) -> bool:
    """Whether a process of that name is at work on this machine."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text().strip() == name:
                return True
    return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd, and end them. Skips where they are absent or a slurmctld is running."""
    need("slurm")
    if running("slurmctld"):
        pytest.skip("a slurmctld is running on this machine; tests start none beside it")
    folder = Path(tempfile.mkdtemp(prefix="harness-slurm-"))  # short: sockets have at most 108 characters
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    facts = {"host": socket.gethostname().split(".")[0], "user": subprocess.getoutput("id -un")}
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, ctld=free_port(), d=free_port(), **facts))
    made = Cluster(folder)
    munge = {name: folder / "munge" / name for name in ("socket", "pid", "seed", "log")}
    options = [f"--key-file={key}", *(f"--{name}-file={munge[name]}" for name in ("pid", "seed", "log"))]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={munge['socket']}", *options],
        ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
        ["slurmd", "-D", "-f", str(folder / "slurm.conf")],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            words = [program(command[0]) or command[0], *command[1:]]
            daemons.append(
                subprocess.Popen(
                    words,
                    env=os.environ | made.environment,
                    stdout=subprocess.DEVNULL,
                    stderr=(folder / f"{command[0]}.err").open("w"),
                    start_new_session=True,
                )
            )
            while command[0] == "munged" and not munge["socket"].exists():
                assert daemons[0].poll() is None, (folder / "munged.err").read_text()
                time.sleep(0.05)
        deadline = time.monotonic() + 60
        while (
            "idle"
            not in subprocess.run(
                ["sinfo", "--noheader", "--format=%T"],
                env=os.environ | made.environment,
                capture_output=True,
                text=True,
            ).stdout
        ):
            assert time.monotonic() < deadline, made.said()
            time.sleep(0.2)
        yield made
    finally:
        if len(daemons) == len(commands):
            for line in subprocess.getoutput(f"SLURM_CONF={folder}/slurm.conf squeue -h -o %i").split():
                subprocess.run(["scancel", line], env=os.environ | made.environment, capture_output=True)
            time.sleep(1)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)
