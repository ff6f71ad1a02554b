"""One child process that stays warm for the whole invocation: a CPU, or a single GPU."""

import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.common import child
from harness.common.signals import PREEMPTED
from harness.launch.launchers._environment import child_environment


class Launcher:
    """Runs launches one after the other in one worker; a worker that died is replaced at the next launch."""

    def __init__(self, nproc: int, logs: Path) -> None:
        del nproc  # one process by definition
        self.log = logs / "worker.log"
        self._worker: subprocess.Popen[str] | None = None
        self._done = threading.Event()
        self._done.set()  # nothing is at work before the first start
        self._leaving = threading.Event()  # the worker is on its way out

    def warm(self) -> None:
        """Start the worker, which takes seconds. Call from the main thread: it dies with the thread that started it."""
        if self._worker is None or self._worker.poll() is not None:
            self._leaving = threading.Event()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as log:
                self._worker = subprocess.Popen(
                    child.python("-m", "harness.engine.worker", "--serve"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=child_environment(),
                    start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
                )

    def start(self, directories: Sequence[Path]) -> None:
        """Hand a launch to the worker."""
        if self._leaving.is_set():  # it answered, but takes no further launch: not to be taken for one that waits
            self.close()
        self.warm()
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        self._done = threading.Event()
        answered = (worker, self._done, self._leaving)
        threading.Thread(target=self._wait_for_answer, args=answered, daemon=True).start()
        worker.stdin.write(json.dumps({"jobs": [str(directory) for directory in directories]}) + "\n")
        worker.stdin.flush()

    @staticmethod
    def _wait_for_answer(worker: "subprocess.Popen[str]", done: threading.Event, leaving: threading.Event) -> None:
        assert worker.stdout is not None
        answer = worker.stdout.readline()  # one line a finished launch; empty when the worker died
        if not answer or json.loads(answer)["exit_code"] == PREEMPTED:  # a signal has stopped it
            leaving.set()
        done.set()

    def running(self) -> bool:
        """Whether the launch is still being worked on."""
        return not self._done.is_set()

    def signal(self, number: int) -> None:
        """Pass a signal on to the worker."""
        if self._worker is not None and self._worker.poll() is None:
            self._worker.send_signal(number)

    def close(self) -> None:
        """Let the worker end."""
        if self._worker is not None and self._worker.poll() is None:
            assert self._worker.stdin is not None
            self._worker.stdin.close()
            try:
                self._worker.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._worker.kill()
