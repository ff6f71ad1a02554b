"""Where a file is written before it gets its name, so that a reader sees all of it or none."""

import os
import socket
from pathlib import Path


def temporary(target: Path) -> Path:
    """Beside the target, and of this process alone: hosts that share a file system may have equal process ids."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
