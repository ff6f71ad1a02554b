"""Check the limits of a container or a shell on loading processes: shared memory and open files."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.config.compose import Config
from harness.tools.doctor._finding import Finding, size

PART = "devices"
SHM = Path("/dev/shm")
PIXEL = 3 + 1  # bytes of a pixel in a batch: three colours and the label
FRAMES = 2  # a frame and the one before it
AHEAD = 2 + 1  # batches that each loading process has ready, and the one at hand
FILES = 256  # open files of a rank itself, with room
EACH = 64  # open files that each loading process adds
REMEDY = (
    "give the container more (docker run --shm-size=8g, or --ipc=host), or set train.workers=0 "
    "(results do not depend on it)"
)


def examine(config: Config, shm: Path = SHM) -> Iterator[Finding]:
    """Return findings on /dev/shm and `ulimit -n` against what loading processes take at most."""
    workers = config.train.workers
    if workers and shm.is_dir():
        batch = config.micro_batch * config.train.crop**2 * PIXEL * FRAMES
        need, free = workers * AHEAD * batch, shutil.disk_usage(shm).free
        if need > free:
            text = (
                f"{shm} has {size(free)} free; train.workers={workers} loading processes per rank may need {size(need)}"
            )
            yield Finding(PART, False, text, REMEDY)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need_files = FILES + EACH * workers
    if files != resource.RLIM_INFINITY and files < need_files:
        text = f"at most {files} files may be open at once (ulimit -n); a rank may need {need_files}"
        yield Finding(PART, False, text, f"ulimit -n {max(4096, need_files)} in this shell, or have the limit raised")
