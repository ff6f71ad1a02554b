"""Which commit the harness that runs is of: that of the repository which tracks its files, else not known."""

import os
import subprocess
from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.config import plugins

PATIENCE = 30  # seconds; a status on a slow disk


def source(project: Path = plugins.PROJECT) -> JsonObject:
    """Return the commit, and whether files differ from it; None for what git cannot say.

    A repository that merely lies around the files, as a person's around an environment, does not track them.
    """
    if git(project, "ls-files", "--error-unmatch", "harness/__init__.py") is None:
        return {"commit": None, "dirty": None}
    commit = git(project, "rev-parse", "--short=12", "HEAD")
    changes = git(project, "status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": None if commit is None or changes is None else bool(changes)}


def git(folder: Path, *words: str) -> str | None:
    """Return what git prints in a folder, whatever repository the environment names; None where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
