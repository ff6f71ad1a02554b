"""A store that may go away while jobs run: what is to be told waits, and the store is asked again later."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from harness.common.errors import UnfitError
from harness.common.locks import Lock
from harness.common.redaction import redact
from harness.jobdir.paths import OutputDir
from harness.tracking.client import Tracking
from harness.tracking.opening import impatient

log = logging.getLogger(__name__)

RETRY = 30.0  # seconds before a store that is away is asked again


class Store:
    """One MLflow for one output directory; `lock` is held while something is looked up and then made."""

    def __init__(self, tracking: Tracking, root: Path) -> None:
        self.tracking = tracking
        self.name = redact(tracking.uri)
        self.lock = Lock(OutputDir(root).upload_lock)
        self._away = False
        self._next_try = 0.0  # monotonic seconds; a store that is away is not asked at every look

    @property
    def resting(self) -> bool:
        """Whether it was away a short while ago."""
        return time.monotonic() < self._next_try

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Swallow the failure of a store that is away, and say so once; while it is, each request is a short one."""
        try:
            with impatient() if self._away else nullcontext():
                yield
        except (UnfitError, OSError) as error:
            if not self._away:
                log.warning(f"{error}; the jobs continue; results are uploaded when it is back, or by `harness sync`")
            self._away, self._next_try = True, time.monotonic() + RETRY
        else:
            back, self._away, self._next_try = self._away, False, 0.0
            if back:
                log.info("MLflow answers again; uploading what it missed")
