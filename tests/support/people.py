"""Two Unix users with a group in common, one output directory, and /proc as a careful administrator has it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.config.plugins import PROJECT

ANN, BEN, GROUP = 54321, 54322, 54320


def need_users() -> None:
    """Skip the test where this process cannot become another user, or others cannot read the harness."""
    if os.getuid():
        pytest.skip("only root can become two other users")
    command = [*alone(), *become(ANN), sys.executable, "-P", "-c", "import harness.cli, torch"]
    done = subprocess.run(command, env=environment(Path("/")), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"other users cannot read the interpreter or the harness here: {done.stderr.strip()[-200:]}")


def alone(*more: str, pids: bool = False) -> list[str]:
    """The start of a command that runs with mounts of its own (shell commands), the interpreter open to all users."""
    prefix = Path(sys.base_prefix).resolve()
    closed = next((folder for folder in [*prefix.parents][::-1] if not folder.stat().st_mode & 0o001), None)
    mounts = []
    if closed is not None:  # as a root's home: its folder is exchanged for one that holds the interpreter alone
        mounts = [
            *("mount -t tmpfs tmpfs /mnt", "mkdir /mnt/python", f"mount --bind {prefix} /mnt/python"),
            *(f"mount -t tmpfs -o mode=755 tmpfs {closed}", f"mkdir -p {prefix}"),
            f"mount --bind /mnt/python {prefix}",
        ]
    namespaces = ["--pid", "--fork", "--kill-child"] if pids else []
    return ["unshare", "--mount", *namespaces, "sh", "-c", " && ".join([*mounts, *more, 'exec "$@"']), "sh"]


def become(user: int, umask: int = 0o002) -> list[str]:
    """The start of a command that runs as a user; numbers as containers have them, without names."""
    rights = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={GROUP}"]
    return ["sh", "-c", f'umask {umask:o} && exec "$@"', "sh", *rights]


@contextmanager
def lab() -> Iterator[Path]:
    """A folder that everybody may enter; pytest closes its own to others at every start."""
    with tempfile.TemporaryDirectory(prefix="harness-lab-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def shared(folder: Path) -> Path:
    """An output directory set up as docs/CLUSTER.md says: the group's, setgid, writable for it."""
    root = folder / "shared"
    root.mkdir()
    os.chown(root, -1, GROUP)
    root.chmod(0o2775)
    return root


def home(tmp_path: Path, user: int) -> Path:
    """A working directory of a user's own."""
    folder = tmp_path / f"home-{user}"
    folder.mkdir()
    os.chown(folder, user, user)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The environment of a person whose home that is."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "XDG_"))}
    ours = {"HOME": str(folder), "USER": "", "LOGNAME": "", "PYTHONPATH": str(PROJECT), "HARNESS_THREADS": "1"}
    return {**kept, **ours, "OMP_NUM_THREADS": "1"}


def harness(folder: Path, user: int, *words: str, umask: int = 0o002, **env: str) -> subprocess.CompletedProcess[str]:
    """`harness` as a user in a folder of theirs."""
    command = [*alone(), *become(user, umask), sys.executable, "-P", "-m", "harness.cli", *words]
    given = {**environment(folder), **env}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=400, check=False)


def hidden() -> list[str]:
    """The start of a command in a process namespace of its own, where /proc shows nobody the processes of others."""
    return alone("mount -t proc -o hidepid=2 proc /proc", pids=True)
