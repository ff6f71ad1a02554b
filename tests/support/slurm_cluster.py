"""A real Slurm of one machine, with munge, for tests: own configuration, ports, sockets and key, all in one folder.

A second node is the same machine by another name, with a slurmd of its own. One waits for the other test's to end, and
refuses to start beside a slurmctld that is none of these: tests never speak to somebody's cluster.
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
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from system_parts import need, program

PREFIX = "harness-slurm-"  # of a cluster's folder
LOCK = FileLock(Path(tempfile.gettempdir()) / f"harness-slurm-{os.getuid()}.lock", timeout=1200)

CONFIG = """\
ClusterName=harness
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
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
{nodes}\
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 State=UNKNOWN\n"


@dataclass(frozen=True)
class Cluster:
    """A running Slurm; `environment` is what its users need."""

    folder: Path
    nodes: tuple[str, ...]
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)  # munged, slurmctld, and by node slurmd

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            list(words), env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def start(self, name: str, *words: str) -> None:
        """Start a daemon."""
        with (self.folder / f"{name}.err").open("w") as said:
            self.daemons[name] = subprocess.Popen(
                [program(words[0]) or words[0], *words[1:]],
                env=os.environ | self.environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self.start(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until all nodes are ready for work."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(subprocess.CalledProcessError):  # slurmctld is not up yet
                found = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
                if found == ["idle"] * len(self.nodes):
                    return
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

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

    def wait_for_requeue(self, number: str, seconds: float = 1200) -> None:
        """Wait until a job was put back into the queue once."""
        deadline = time.monotonic() + seconds
        while "Restarts=1" not in self.run("scontrol", "show", "job", number):
            assert time.monotonic() < deadline, f"job {number} is {self.state(number)}\n{self.said()}"
            time.sleep(0.2)

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
def cluster(nodes: int = 1) -> Iterator[Cluster]:
    """Start munged, slurmctld and one or two slurmd, and end them.

    Skips where they are absent or a slurmctld is running.
    """
    need("slurm")
    with LOCK:
        if LOCK.lock_counter == 1:  # the lock is had again by who has it: a second cluster is asked for beside its own
            end_orphans()
        yield from started(nodes)


def end_orphans() -> None:
    """End the daemons that a killed test run has left: whoever holds the lock is the only one to have any."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, *words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = process.stat().st_uid == os.getuid() and any(f"/{PREFIX}" in word for word in words)
            if ours and Path(program).name in ("munged", "slurmctld", "slurmd"):
                os.kill(int(process.name), signal.SIGKILL)
                while (process / "cmdline").read_bytes():  # empty once it is dead
                    time.sleep(0.01)


def started(nodes: int) -> Iterator[Cluster]:
    if running("slurmctld"):
        pytest.skip("a slurmctld is running on this machine; tests start none beside it")
    folder = Path(
        tempfile.mkdtemp(prefix=PREFIX, dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
    )  # short: sockets have at most 108 characters
    host = socket.gethostname().split(".")[0]
    made = Cluster(folder, (host, "localhost")[:nodes])  # names that lead here: the ranks' rendezvous asks for one
    for name in ("state", "munge", *(f"spool-{node}" for node in made.nodes)):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    facts = {"host": host, "user": subprocess.getoutput("id -un")}
    lines = [NODE.format(name=node, port=free_port(), host=host) for node in made.nodes]
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, ctld=free_port(), nodes="".join(lines), **facts))
    munge = {name: folder / "munge" / name for name in ("socket", "pid", "seed", "log")}
    options = [f"--key-file={key}", *(f"--{name}-file={munge[name]}" for name in ("pid", "seed", "log"))]
    try:
        made.start("munged", "munged", "--foreground", "--force", f"--socket={munge['socket']}", *options)
        while not munge["socket"].exists():
            assert made.daemons["munged"].poll() is None, (folder / "munged.err").read_text()
            time.sleep(0.05)
        made.start("slurmctld", "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for node in made.nodes:
            made.start_node(node)
        made.wait_idle()
        yield made
    finally:
        if "slurmctld" in made.daemons:
            for line in subprocess.getoutput(f"SLURM_CONF={folder}/slurm.conf squeue -h -o %i").split():
                subprocess.run(["scancel", line], env=os.environ | made.environment, capture_output=True)
            time.sleep(1)
        for daemon in reversed(made.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)
