"""Check results, and exceptions as the one line of a result."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckResult:
    """One check of a contract: whether it passed, and the figures, or what was expected and what came."""

    what: str
    passed: bool
    text: str


class Broken(Exception):
    """A failed check: the expected and the actual value in one line."""


def expect(condition: object, text: str) -> None:
    """Raise Broken with `text` where the condition does not hold."""
    if not condition:
        raise Broken(text)


def run_check(what: str, action: Callable[[], str], path: Path) -> CheckResult:
    """Return the result of a check; whatever `action` raises makes it a failed one."""
    try:
        return CheckResult(what, True, action())
    except Exception as error:  # a stranger's file may raise anything; the other checks go on
        return CheckResult(what, False, explain(error, path))


def explain(error: BaseException, path: Path) -> str:
    """One line for an exception, with file and line of the plug-in where the exception came through it."""
    line = plugin_line(error, path)
    message = " ".join(str(error).split())[:400]
    kind = None if isinstance(error, Broken) else type(error).__name__
    text = ": ".join(part for part in (kind, message) if part)
    return text if line is None else f"{text} ({line})"


def plugin_line(error: BaseException, path: Path) -> str | None:
    """Return FILE:LINE of the plug-in, or of a file of its folder, that was last at work when the exception was raised,
    or what caused it.
    """
    cause: BaseException | None = error
    line = None
    while cause is not None:
        if isinstance(cause, SyntaxError) and cause.filename and Path(cause.filename).is_relative_to(path.parent):
            return f"{Path(cause.filename).name}:{cause.lineno}"
        for frame in traceback.extract_tb(cause.__traceback__):
            if Path(frame.filename).is_relative_to(path.parent) and frame.lineno is not None:
                line = f"{Path(frame.filename).name}:{frame.lineno}"
        cause = cause.__cause__
    return line
