"""Which reports an output directory holds: one folder a plan, and one that 0.1 wrote an experiment."""

from dataclasses import asdict, dataclass
from pathlib import Path
from time import localtime, strftime

from harness.common.atomic_files import JsonObject
from harness.jobdir.paths import OutputDir
from harness.report.evidence import EVIDENCE, read_evidence

REPORT = "report.md"


@dataclass(frozen=True)
class Listed:
    """One report: when it was written, its folder, its title, what is not done, and the command that made it."""

    written: str  # local time, to the minute
    folder: str
    title: str
    undone: int  # rows and seeds
    command: str
    latest: bool  # whether the experiment's name among the reports leads to it

    @property
    def line(self) -> str:
        """The report for people."""
        state = f"; {self.undone} not done" if self.undone else ""
        mark = " (latest)" if self.latest else ""
        return f"{self.written}  {self.folder}{mark}  {self.title}{state}\n    {self.command}".rstrip()

    @property
    def json(self) -> JsonObject:
        """The report as `--json` prints it."""
        return asdict(self)


def list_all(root: Path) -> list[Listed]:
    """Return the reports of an output directory, the newest first."""
    reports = OutputDir(root).reports
    latest = {path.resolve() for path in reports.glob("*") if path.is_symlink()}
    folders = [*reports.glob("plans/*/"), *(path for path in reports.glob("*/") if not path.is_symlink())]
    times = {path: (path / REPORT).stat().st_mtime for path in folders if (path / REPORT).is_file()}
    return [
        listed(path, times[path], path.resolve() in latest)
        for path in sorted(times, key=lambda path: (-times[path], path.name))
    ]


def listed(folder: Path, written: float, latest: bool) -> Listed:
    """Return what one report's folder says of itself."""
    evidence = read_evidence(folder / EVIDENCE)
    text = (folder / REPORT).read_text(encoding="utf-8").lstrip()
    title = text.partition("\n")[0].lstrip("# ").replace("\\", "")
    when = strftime("%Y-%m-%d %H:%M", localtime(written))
    return Listed(when, str(folder), title, len(evidence.undone), evidence.command, latest)
