"""Entry of a study's worker: `python -m harness.search.worker`, its request as one JSON line on stdin.

It ends when the study has its trials, after a signal, or when its pipe is closed, which is when its parent is gone.
"""

import json
import os
import signal
import sys
import threading
from typing import Any

from harness import search
from harness.core.errors import HarnessError
from harness.options import PREEMPTED, say
from harness.supervise import Stopped


def main() -> int:
    """Work; the exit code."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        search.work(search.Request(**{key: value for key, value in request.items() if key != "index"}), request["index"])
    except HarnessError as error:
        print(json.dumps({"error": str(error), "code": error.exit_code}), flush=True)
        return error.exit_code
    except (Stopped, KeyboardInterrupt):
        say(f"worker {request['index']}: stopped; its trial goes on with the next run")
        return PREEMPTED
    return 0


def stop_with_parent() -> None:
    """Once nobody holds the other end of stdin, stop as for a signal."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
