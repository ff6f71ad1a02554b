"""A request to stop a training, because another one is better: a file in its directory, which every step looks for.

No signal, since a signal ends the worker as well, and the next training would have to wait for a new one.
"""

from pathlib import Path

from harness.jobdir.paths import JobDir


def ask(directory: Path) -> None:
    """Have the job stop within a step; its checkpoint stays, so it can go on later."""
    JobDir(directory).prune_file.touch()


def requested(directory: Path) -> bool:
    """Return whether the job is to stop."""
    return JobDir(directory).prune_file.exists()


def forget(directory: Path) -> None:
    """Forget an earlier attempt's pruning."""
    JobDir(directory).prune_file.unlink(missing_ok=True)
