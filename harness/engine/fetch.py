"""Child of a run: weights from the hub come to this machine once, before any rank starts and asks for them.

Its word is timm's name of the model. Exit code 3 and one line on stderr where they cannot be had.
"""

import sys

from models.encoders import _weights


def main() -> int:
    """Fetch the model that sys.argv names; return the exit code."""
    try:
        _weights.fetch(sys.argv[1])
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 3
    return 0
