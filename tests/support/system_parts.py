"""What some tests need of the system: they skip where it is absent, and fail where CI is set, which installs it."""

import os
import shutil
from glob import glob

import pytest

PARTS = {  # part -> programs it is known by
    "slurm": ("slurmctld", "slurmd", "sbatch", "srun", "munged"),
    "postgresql": ("initdb",),
    "chromium": ("chromium",),
    "latex": ("pdflatex",),
}
ASIDE = ["/usr/sbin", "/sbin", *sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)]  # not on everybody's PATH


def program(name: str) -> str | None:
    """Where a program lies."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *ASIDE]))


def need(part: str) -> None:
    """Skip the test, with the reason, where a part is not installed; fail where CI is set."""
    absent = [name for name in PARTS[part] if program(name) is None]
    if not absent:
        return
    reason = f"{part} is not installed ({', '.join(absent)} missing); as root, .ci/run installs it"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
