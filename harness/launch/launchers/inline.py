"""One child process that stays warm for the whole invocation: a CPU, or a single GPU."""

import json
import os
import select
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

from harness.common import child
from harness.common.signals import PREEMPTED
from harness.launch.launchers._environment import ALONE, child_environment
from harness.launch.launchers._log import last_line
from harness.launch.preflight import PATIENCE, Problem


class Launcher:
    """Runs launches one after the other in one worker; a worker that died is replaced at the next launch."""

    def __init__(self, nproc: int, logs: Path) -> None:
        del nproc  # one process by definition
        self.log = logs / "worker.log"
        self._worker: _Worker | None = None
        self._busy = False

    def warm(self) -> None:
        """Start the worker, which takes seconds. Call from the main thread: it dies with the thread that started it."""
        if self._worker is None or self._worker.process.poll() is not None:
            self._end()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._worker = _Worker(self.log)

    def start(self, directories: Sequence[Path]) -> None:
        """Hand a launch to the worker."""
        if self._worker is not None and self._worker.leaving:  # not to be taken for one that waits
            self.close()
        self.warm()
        assert self._worker is not None
        self._busy = True
        self._worker.unused = False
        with suppress(BrokenPipeError):  # it has died: `running` says so
            self._worker.send(json.dumps({"jobs": [str(directory) for directory in directories]}))

    def preflight(self, question: str) -> Callable[[], Problem]:
        """Ask the worker about a plan's networks, before its first launch: it has torch at hand.

        Return what waits for its answer.
        """
        self.warm()
        assert self._worker is not None
        with suppress(BrokenPipeError):
            self._worker.send(json.dumps({"preflight": json.loads(question)}))
        return self._problem

    def _problem(self) -> Problem:
        assert self._worker is not None
        answer = self._worker.await_answer(PATIENCE)
        if answer is None:
            return Problem(broken=f"no answer within {PATIENCE} seconds")
        if not answer:  # it is dying: its last words come after its pipe has closed
            with suppress(subprocess.TimeoutExpired):
                self._worker.process.wait(timeout=30)
            return Problem(broken=last_line(self.log))
        return TypeAdapter(Problem).validate_json(answer)

    def running(self) -> bool:
        """Return whether the launch is still being worked on."""
        if self._busy and self._worker is not None:
            self._busy = not self._worker.answered()
        return self._busy

    def signal(self, number: int) -> None:
        """Pass a signal on to the worker."""
        if self._worker is not None and self._worker.process.poll() is None:
            self._worker.process.send_signal(number)

    def close(self) -> None:
        """Let the worker end."""
        if self._worker is not None and self._worker.process.poll() is None:
            self._worker.hang_up()
            if self._worker.unused:  # it imports torch or tries networks, for seconds, and has nothing to save
                self._worker.process.kill()
            try:
                self._worker.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._worker.process.kill()
                self._worker.process.wait()
        self._end()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None


class _Worker:
    """A worker process, spoken with over two pipes of our own: what anything prints in it goes to the log."""

    def __init__(self, log: Path) -> None:
        launches, self._launches = os.pipe()
        self._answers, answers = os.pipe()
        os.set_blocking(self._answers, False)
        with log.open("a") as file:
            self.process = subprocess.Popen(
                child.python("-m", "harness.engine.worker", "--serve", str(launches), str(answers)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**child_environment(), **ALONE},
                pass_fds=(launches, answers),
                start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
            )
        os.close(launches)
        os.close(answers)
        self.unused = True  # it was sent no launch
        self.leaving = False  # a signal has stopped it: it takes no further launch

    def send(self, line: str) -> None:
        """Hand over a launch or a question. Raise BrokenPipeError where the worker has died."""
        os.write(self._launches, f"{line}\n".encode())

    def answered(self) -> bool:
        """Return whether the launch has ended: one line a launch, or the worker has died."""
        died = self.process.poll() is not None  # asked first: what it answered before is still in the pipe
        try:
            answer = os.read(self._answers, 1 << 16)  # a line is written at once
        except BlockingIOError:
            return died
        self.leaving = not answer or json.loads(answer)["exit_code"] == PREEMPTED
        return True

    def await_answer(self, seconds: float) -> str | None:
        """Return an answer's line; empty where the worker has died, None after so many seconds without one."""
        ready, _, _ = select.select([self._answers], [], [], seconds)
        return os.read(self._answers, 1 << 16).decode() if ready else None

    def hang_up(self) -> None:
        """Tell the worker that no further launch comes."""
        if self._launches >= 0:
            os.close(self._launches)
        self._launches = -1

    def close(self) -> None:
        """Give the pipes back."""
        self.hang_up()
        if self._answers >= 0:
            os.close(self._answers)
        self._answers = -1
