"""Write down that today's sources compute the numbers of earlier ones: `python tests/tools/equal_sources.py [COMMIT]`.

Run it after a change of a file that source_changes.WITHIN names, if the change moves no number (test_numbers.py and the
oracle tests say so). It rewrites the half "now" of harness/plan/equal_sources.json; the other half, "before", gains the
sources of COMMIT, whose finished roots are to be read without "code changed".
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from harness.config.plugins import PROJECT
from harness.plan import source_changes


def current() -> dict[str, str]:
    """Return the digest of every file of ours that a job's sources may name."""
    files = sorted(path for room in ("harness", "models") for path in (PROJECT / room).rglob("*.py"))
    ours = [path for path in files if source_changes.label(path).startswith(source_changes.WITHIN)]
    return {source_changes.label(path): source_changes.digest(path) for path in ours}


def of_commit(commit: str) -> dict[str, str]:
    """Return the digest of every such file as a commit has it."""
    names = git("ls-tree", "-r", "--name-only", commit, "harness", "models").decode().splitlines()
    ours = [name for name in names if name.endswith(".py") and name.startswith(source_changes.WITHIN)]
    return {name: hashlib.sha256(git("show", f"{commit}:{name}")).hexdigest()[:12] for name in ours}


def git(*words: str) -> bytes:
    """Return what git prints."""
    return subprocess.run(["git", "-C", str(PROJECT), *words], capture_output=True, check=True).stdout


def main(commits: list[str], path: Path = source_changes.EQUAL) -> None:
    """Rewrite the table at `path`."""
    before: dict[str, list[str]] = json.loads(path.read_text())["before"]
    for commit in commits:
        for name, digest in of_commit(commit).items():
            before[name] = list(dict.fromkeys([*before.get(name, []), digest]))
    table = {"before": dict(sorted(before.items())), "now": current()}
    path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
