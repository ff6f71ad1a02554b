"""A lease on a job: every attempt is a numbered file in its directory, and the highest number holds the job.

    jobs/<fingerprint>/attempts/000002.json    {"count": 41, "released": false, "user": …, "host": …, "pid": …, …}

A holder raises its file's counter; whoever waits looks whether the counter moves, by its own monotonic clock, so that
the clocks of two machines need not agree. Only one process can make the next file (link, which shared file systems
keep), so a job is taken over once. The number is the attempt's token: a rank whose number is not the highest any more
writes nothing.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from harness.common.atomic_files import temporary
from harness.common.errors import HarnessError
from harness.common.machine import user
from harness.common.repeating import repeated
from harness.jobdir.paths import JobDir

RENEW = 5.0  # seconds between two counts of a holder
DEAD = 60.0  # seconds without a count after which a holder elsewhere is dead; on this machine its process is looked at


class SupersededError(HarnessError):
    """A later attempt has taken the job: what this one still has in hand must not be written."""


@dataclass(frozen=True)
class Holder:
    """The process that made an attempt, as its file describes it."""

    number: int
    count: int = 0
    released: bool = False
    user: str = "somebody"
    host: str = "an unknown host"
    machine: str | None = None  # boot and process namespace: equal where process ids mean the same processes
    pid: int = 0
    born: str | None = None  # when the process started, so that another one of the same number is not taken for it

    @property
    def who(self) -> str:
        """For people."""
        return f"{self.user}'s run on {self.host} (process {self.pid})"

    @property
    def local(self) -> bool:
        """Whether its process can be seen from here."""
        return self.machine is not None and self.machine == machine()

    @property
    def gone(self) -> bool:
        """Whether its process is known to be dead; never where that cannot be seen from here."""
        return self.local and (dead(self.pid) or birth(self.pid) not in (None, self.born))

    @property
    def alive(self) -> bool:
        """Whether its process is known to be at work."""
        return self.local and self.born is not None and birth(self.pid) == self.born


@dataclass
class Lease:
    """A job that this process holds."""

    directory: Path
    holder: Holder
    superseded: bool = field(default=False, init=False)  # a later attempt has it

    @property
    def number(self) -> int:
        """The attempt's token."""
        return self.holder.number

    def ours(self) -> bool:
        """Return whether no later attempt was made, by the files as they are now; `superseded` is set where one was."""
        self.superseded = self.superseded or latest(self.directory) != self.number
        return not self.superseded

    def renew(self, released: bool = False) -> None:
        """Count on; `superseded` is set where somebody took this process for dead."""
        if not self.ours():
            return
        self.holder = Holder(**{**asdict(self.holder), "count": self.holder.count + 1, "released": released})
        path = path_of(self.directory, self.number)
        partial = temporary(path)
        partial.write_text(json.dumps(asdict(self.holder)))
        partial.replace(path)


class Claim:
    """One process's wish to run a job: asked again and again, it is granted once the job is free."""

    def __init__(self, directory: Path, dead: float = DEAD) -> None:
        self.directory, self.dead = directory, dead
        self.holder: Holder | None = None  # whom we wait for
        self._since = 0.0  # when what we see of the holder last changed

    def take(self) -> Lease | None:
        """Return the lease, or None while another process holds the job."""
        holder = latest_holder(self.directory)
        if holder is not None and not self._free(holder):
            return None
        number = 1 + (holder.number if holder else 0)
        ours = Holder(number, user=user(), host=socket.gethostname(), machine=machine(), pid=os.getpid(), born=birth())
        path = path_of(self.directory, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not make(path, json.dumps(asdict(ours))):  # somebody was faster
            return None
        self.holder = None
        return Lease(self.directory, ours)

    def _free(self, holder: Holder) -> bool:
        if holder.released or holder.gone:
            return True
        now = time.monotonic()
        if holder != self.holder:
            self.holder, self._since = holder, now
        return now - self._since >= self.dead


@contextmanager
def heartbeat(leases: Iterable[Lease], every: float = RENEW) -> Iterator[None]:
    """Renew leases in a thread of its own, which a slow store or disk does not hold up; release them at the end."""
    leases = list(leases)

    def renew(released: bool = False) -> bool:
        for lease in leases:
            _renew(lease, released)
        return False

    try:
        with repeated(renew, every):
            yield
    finally:
        renew(released=True)


def _renew(lease: Lease, released: bool = False) -> None:
    try:
        lease.renew(released)
    except OSError:  # a full or absent disk: whoever waits will take us for dead, and we shall see that
        return


def make(path: Path, text: str) -> bool:
    """Make a file that is not there; False where it is. Whole at once, where the file system has hard links."""
    partial = temporary(path)
    partial.write_text(text)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # no hard links
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        partial.unlink()
    return True


def path_of(directory: Path, number: int) -> Path:
    """Return the path of an attempt's file."""
    return JobDir(directory).attempts / f"{number:06d}.json"


def stacks(directory: Path, number: int, rank: int) -> Path:
    """Return the file that a rank touches while it works, and leaves its threads' stacks in if it stalls."""
    return JobDir(directory).stacks / f"attempt-{number}-rank-{rank:03d}.txt"


def latest(directory: Path) -> int:
    """Return the number of the last attempt; 0 where there was none."""
    try:
        names = os.listdir(JobDir(directory).attempts)
    except FileNotFoundError:
        return 0
    return max((int(name[:-5]) for name in names if name[:-5].isdecimal() and name.endswith(".json")), default=0)


def latest_holder(directory: Path) -> Holder | None:
    """Return who made the last attempt, released or not; unknown by name where its file is not wholly written."""
    number = latest(directory)
    return read(directory, number) if number else None


def read(directory: Path, number: int) -> Holder:
    """Return an attempt's file."""
    try:
        return Holder(**{**json.loads(path_of(directory, number).read_text()), "number": number})
    except (OSError, ValueError, TypeError):
        return Holder(number)


def current_holder(directory: Path) -> Holder | None:
    """Return who holds a job by its files; None where it is free, or its holder elsewhere has stopped counting."""
    holder = latest_holder(directory)
    if holder is None or holder.released or holder.gone:
        return None
    return holder if holder.alive or counts(directory) else None


def counts(directory: Path) -> bool:
    """Return whether the last attempt's file was written in the last DEAD seconds, by the file system's own clock."""
    probe = temporary(JobDir(directory).attempts / "now")
    try:
        probe.touch()  # first: whoever writes in a folder sees what others have made there
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # a root that we may only read
        now = time.time()
    try:
        with path_of(directory, latest(directory)).open() as file:  # opened: a network file system then asks its server
            return now - os.fstat(file.fileno()).st_mtime < DEAD
    except OSError:
        return False


def check(directory: Path, number: int | None) -> None:
    """Raise SupersededError where a later attempt has the job; a job that is run without a lease has no number."""
    if number is not None and latest(directory) != number:
        raise SupersededError(f"{directory.name}: attempt {number} was taken over by a later one; nothing is written")


@cache
def machine() -> str | None:
    """Return the names the kernel's boot and the process namespace; None where neither is known."""
    if sys.platform != "linux":
        return f"{socket.gethostname()}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def dead(pid: int) -> bool:
    """Return whether there is no such process; one of another user's is there, also where /proc hides it (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def birth(pid: int | None = None) -> str | None:
    """Return a process's start (by default this one's) in the kernel's ticks; None if that cannot be seen.

    "dead" where the process has ended and waits for its parent.
    """
    pid = os.getpid() if pid is None else pid
    if sys.platform != "linux":
        return "dead" if dead(pid) else "alive"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "dead" if fields[0] in "ZX" else fields[19]  # state, starttime
