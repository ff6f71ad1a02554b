"""A request to end, in a file: of the attempt that holds a job, of a person's own runs of a plan that wait, of a study.

For runs that no signal of ours reaches, on another machine or another user's. Their supervisors look for it.
"""

import logging
import signal
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from harness.common import machine
from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UnfitError
from harness.common.repeating import repeated

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at a file


@dataclass(frozen=True)
class StopRequest:
    """Who asks, and for which attempt; without one, for whoever waits."""

    attempt: int | None = None
    user: str = field(default_factory=machine.user)
    host: str = field(default_factory=socket.gethostname)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def who(self) -> str:
        """For people."""
        return f"{self.user} on {self.host}"

    def write(self, path: Path) -> None:
        """Leave it for those that look. Raise OSError where we may not write."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "StopRequest | None":
        """Return the last one; None where there is none, or it is not ours to read."""
        try:
            content = read_json(path)
        except (OSError, UnfitError):
            return None
        return (
            cls(**{item.name: content[item.name] for item in fields(cls) if item.name in content}) if content else None
        )


class NewRequests:
    """Requests of this user's that are written from now on."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._before = {path: StopRequest.read(path) for path in paths}

    def __call__(self) -> StopRequest | None:
        """Return one, if there is any."""
        for path, before in self._before.items():
            now = StopRequest.read(path)
            if now is not None and now != before and now.user == machine.user():
                return now
        return None


@contextmanager
def obeyed(path: Path, before: StopRequest | None) -> Iterator[None]:
    """Do to this process what Ctrl-C does, once a file holds another request than `before`, by whomever."""

    def look() -> bool:
        request = StopRequest.read(path)
        if request is None or request == before:
            return False
        log.info(f"{request.who} asks this run to end (`harness cancel`)")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return True

    with repeated(look, LOOK):
        yield
