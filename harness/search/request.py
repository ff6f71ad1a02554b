"""A search as a value: what the command line asks for, handed to every worker."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.common.progress import Progress
from harness.config import compose as configuration
from harness.config.settings import RunOptions
from harness.jobdir.paths import OutputDir, StudyDir
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
    options: RunOptions = field(default_factory=RunOptions)

    @classmethod
    def from_json(cls, values: JsonObject) -> Self:
        """Return the request that `dataclasses.asdict` made these of."""
        return cls(**{**values, "options": RunOptions(**values["options"])})

    def make(self) -> Study:
        """Return the study. Raise UsageError."""
        if self.total < 1:
            raise UsageError(f"--trials {self.total}: must be at least 1")
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.study):
            raise UsageError(f"--study {self.study!r}: a name is letters, digits, '_', '-' and '.'")
        split, words = study.split_of(self.words)
        composed = configuration.compose(self.preset, words, self.folders)
        return study.make(self.search, composed, Path(self.root), split, self.study, compute=True, progress=Progress())

    def folder(self, name: str) -> Path:
        """Return where a study keeps what is not Optuna's."""
        return self.study_dir(name).folder

    def study_dir(self, name: str | None = None) -> StudyDir:
        """Return the folder of a study, by default this one."""
        return OutputDir(Path(self.root)).study(name or self.study or Path(self.search).stem)

    def tracking(self) -> Tracking | None:
        """Return MLflow, connected; None with --offline."""
        return runner.connected(self.options)
