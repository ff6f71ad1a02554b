"""What the doctor's children share: stdout is for the answer alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def answer() -> Iterator[TextIO]:
    """The real stdout; what libraries print meanwhile goes to stderr."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        yield out
