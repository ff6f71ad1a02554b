"""Write down that today's sources compute the numbers of 0.1: `python tests/tools/equal_sources.py`.

Run it after a change of a file that source_changes.WITHIN names, if the change moves no number (test_numbers.py and the
oracle tests say so). It rewrites the half "now" of harness/plan/equal_sources.json; "before" stays, the digests of the
last commit of 0.1.
"""

import json
from pathlib import Path

from harness.config.plugins import PROJECT
from harness.plan import source_changes


def current() -> dict[str, str]:
    """Return the digest of every file of ours that a job's sources may name."""
    files = sorted(path for room in ("harness", "models") for path in (PROJECT / room).rglob("*.py"))
    ours = [path for path in files if source_changes.label(path).startswith(source_changes.WITHIN)]
    return {source_changes.label(path): source_changes.digest(path) for path in ours}


def main(path: Path = source_changes.EQUAL) -> None:
    """Rewrite the table at `path`."""
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "now": current()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
