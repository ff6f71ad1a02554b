"""How our child processes are started: a models.py or experiments/ in the working directory must not hide ours."""

import sys

SAFE = {"PYTHONSAFEPATH": "1"}  # for those that they start themselves, as torchrun does its ranks


def python(*words: str) -> list[str]:
    """Return the command of this Python with these words, which imports nothing from the working directory."""
    return [sys.executable, "-P", *words]
