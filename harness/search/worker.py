"""A study's worker, a program of its own (harness.common.start): its request is one JSON line on stdin.

It ends when the study has its trials, after a signal, or when its pipe is closed, which is when its parent is gone.
"""

import json
import logging
import os
import signal
import sys
import threading

from harness.common.console import logging_to_stderr
from harness.common.errors import HarnessError, refused
from harness.common.progress import QUIET, Progress
from harness.common.signals import PREEMPTED, Stopped, stop_signals
from harness.search import command
from harness.search.request import Request

log = logging.getLogger(__name__)


@logging_to_stderr()
def main() -> int:
    """Run a worker; return its exit code."""
    message = json.loads(sys.stdin.readline())
    index, workers = message.pop("index"), message.pop("workers")
    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        with stop_signals():
            progress = Progress(QUIET * workers)  # lines: bars would overwrite bars
            command.work(Request.from_json(message), index, progress)
    except (HarnessError, OSError) as why:
        error = refused(why) if isinstance(why, OSError) else why
        print(json.dumps({"error": str(error), "code": error.exit_code}), flush=True)
        return error.exit_code
    except Stopped:
        log.info(f"worker {index}: stopped; the next run continues its trial")
        return PREEMPTED
    return 0


def stop_with_parent() -> None:
    """Stop as for a signal once nobody holds the other end of stdin."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
