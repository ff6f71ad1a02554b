"""What a worker wrote before it died."""

from pathlib import Path

from harness.common.redaction import one_line


def last_line(log: Path) -> str:
    """Return the last line a worker wrote before it died, without passwords; srun's own after it say nothing of why."""
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    words = [line.strip() for line in lines if line.strip() and not line.startswith("srun: ")]
    return f"{one_line(words[-1], 200)} (see {log})" if words else f"it left no message (see {log})"
