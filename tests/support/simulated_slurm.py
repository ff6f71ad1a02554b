"""sbatch, squeue, scancel and scontrol of a Slurm that runs nothing: files say what is queued, and how many may be."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.launch import slurm_submit

SBATCH = """#!/bin/bash
cd {folder}; shopt -s nullglob
live=(queue/*)
if [ ${{#live[@]}} -ge $(cat limit) ]; then
  echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size \
and/or time limits)" >&2
  echo refused >> refusals; exit 1
fi
id=$(($(cat last) + 1)); echo $id > last
name=$(sed -n "s/^#SBATCH --job-name=//p" "$OLDPWD/$1" 2>/dev/null || true)
[ -n "$name" ] || name=$(sed -n "s/^#SBATCH --job-name=//p" "$1")
name=${{name#\\'}}; name=${{name%\\'}}
echo "$id|PENDING|Priority|1:00|{user}|$name" > new; mv new queue/$id
echo "Submitted batch job $id"
"""
SQUEUE = """#!/bin/bash
cd {folder}; shopt -s nullglob
case "$*" in *--clusters=*) echo "squeue: error: No cluster known by database" >&2; exit 1;; esac
cat /dev/null queue/* ended/* 2>/dev/null; exit 0  # one may end between the list and its reading
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >> {folder}/requeued; exit; fi
cat {folder}/config
"""
SCANCEL = """#!/bin/bash
echo "$@" >> {folder}/scancelled
"""
SRUN = """#!/bin/bash
exit 1
"""


@dataclass(frozen=True)
class SimulatedSlurm:
    """A queue of at most `limit` jobs; those that end stay as COMPLETED."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, user: str, limit: int = 1000) -> "SimulatedSlurm":
        """Write the commands into folder/bin, which belongs first on the PATH."""
        made = cls(folder)
        for name in ("bin", "queue", "ended"):
            (folder / name).mkdir(parents=True)
        programs = {"sbatch": SBATCH, "squeue": SQUEUE, "scontrol": SCONTROL, "scancel": SCANCEL, "srun": SRUN}
        for name, text in programs.items():
            path = folder / "bin" / name
            path.write_text(text.format(folder=folder, user=user))
            path.chmod(0o755)
        (folder / "last").write_text("0")
        (folder / "limit").write_text(str(limit))
        made.configure()
        return made

    @classmethod
    def installed(cls, folder: Path, user: str, monkeypatch: pytest.MonkeyPatch) -> "SimulatedSlurm":
        """Make one whose commands are found first in a test, and whose queue is asked without a pause."""
        made = cls.make(folder, user)
        monkeypatch.setenv("PATH", made.path)
        monkeypatch.setattr(slurm_submit, "ASK", 0.0)
        return made

    def configure(self, **more: str) -> None:
        """What scontrol says of the cluster."""
        facts: Mapping[str, str] = {"ClusterName": "simulated", "PrivateData": "none", **more}
        (self.folder / "config").write_text("".join(f"{key:<23} = {value}\n" for key, value in facts.items()))

    @property
    def path(self) -> str:
        """PATH with the commands first."""
        return f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def put(self, number: str, user: str, name: str, state: str = "RUNNING") -> None:
        """A job that somebody has submitted."""
        self._write("queue", number, f"{number}|{state}|None|1:00|{user}|{name}\n")

    def queued(self) -> list[str]:
        """Numbers of what waits or runs."""
        return sorted((path.name for path in (self.folder / "queue").iterdir()), key=int)

    def end(self, number: str) -> None:
        """A job has run."""
        path = self.folder / "queue" / number
        fields = path.read_text().split("|")
        self._write("ended", number, "|".join([fields[0], "COMPLETED", "None", *fields[3:]]))
        path.unlink()

    def _write(self, state: str, number: str, text: str) -> None:
        """A line of squeue's, at once: it may be asked meanwhile."""
        new = self.folder / "changed"
        new.write_text(text)
        new.rename(self.folder / state / number)

    def cancelled(self) -> str:
        """What scancel was asked."""
        path = self.folder / "scancelled"
        return path.read_text() if path.exists() else ""

    def requeued(self) -> list[str]:
        """Numbers of jobs that were put back into the queue."""
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []

    def refusals(self) -> int:
        """How often sbatch said no."""
        path = self.folder / "refusals"
        return len(path.read_text().splitlines()) if path.exists() else 0
