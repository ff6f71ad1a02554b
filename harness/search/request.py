"""A search as a value: what the command line asks for, handed to every worker."""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.common.console import lines, say
from harness.common.errors import UsageError
from harness.config import compose as configuration
from harness.launch import runner
from harness.plan import study
from harness.plan.study import Study
from harness.tracking.client import Tracking


@dataclass(frozen=True)
class Request:
    """A search and its options: all that a worker needs."""

    search: str
    total: int  # trials of the study
    words: tuple[str, ...] = ()  # key=value
    preset: str = "demo"
    root: str = "runs"
    folders: tuple[str, ...] = ()
    study: str | None = None  # its name in the storage
    storage: str | None = None
    launcher: str = "auto"
    nproc: int | None = None
    stall: float = 10.0  # minutes
    deterministic: bool = False
    nodes: int = 1
    slurm: JsonObject = field(default_factory=dict)  # options of sbatch; with launcher slurm
    inside: bool = False  # an allocation
    offline: bool = False
    tracking_uri: str | None = None
    prefix: str = ""
    command: tuple[str, ...] = tuple(sys.argv)

    def make(self) -> Study:
        """Return the study. Raise UsageError."""
        if self.total < 1:
            raise UsageError(f"--trials {self.total}: must be at least 1")
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.study):
            raise UsageError(f"--study {self.study!r}: a name is letters, digits, '_', '-' and '.'")
        split, words = study.split_of(self.words)
        composed = configuration.compose(self.preset, words, self.folders)
        show = lines("digesting data", "files")
        return study.make(self.search, composed, Path(self.root), split, self.study, compute=True, progress=show)

    def folder(self, name: str) -> Path:
        """Return where a study keeps what is not Optuna's."""
        return Path(self.root) / "searches" / name

    def tracking(self) -> Tracking | None:
        """Return MLflow, connected; None with --offline."""
        return runner.connected(self.how, say)

    @property
    def how(self) -> runner.How:
        """Return how its jobs are run."""
        return runner.How(
            launcher=self.launcher,
            nproc=self.nproc,
            offline=self.offline,
            tracking_uri=self.tracking_uri,
            prefix=self.prefix,
            command=self.command,
            stall=self.stall,
            deterministic=self.deterministic,
            nodes=self.nodes,
            slurm=self.slurm,
            inside=self.inside,
        )
