"""Child of a run: weights from the hub come to this machine once, before any rank starts and asks for them.

python -m harness.engine.fetch MODEL        exit code 3 and one line on stderr where they cannot be had
"""

import sys

from models.encoders import _weights


def main(model: str) -> int:
    """Return the exit code."""
    try:
        _weights.fetch(model)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
