"""Requests of a search, and what stands in place of its work."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from tiny_study import TINY

from harness.common.progress import Progress
from harness.config.settings import RunOptions
from harness.search.backend import Storage
from harness.search.request import Request
from harness.search.storage import Keeper


def request(folder: Path, **more: Any) -> Request:
    """A small search; `more` are fields of Request and of RunOptions."""
    given = {"words": TINY, "root": str(folder / "runs"), "offline": True, "command": ("harness",), **more}
    options = {f.name: given.pop(f.name) for f in fields(RunOptions) if f.name in given}
    return Request("momentum", 3, **given, options=RunOptions(**options))


def trials_end(asked: Request, index: int, progress: Progress) -> None:
    """In place of `search.work`: every trial ends with a number, and nothing is trained."""
    made = asked.make()
    keeper = Keeper(made, Storage(asked.storage, asked.folder(made.name)))
    while (live := keeper.take(asked.total)) is not None:
        live.tell("failed", None, {"reason": "nothing is trained here", "steps": 21, "step": 0})
        live.lease.renew(released=True)


def raising(error: BaseException) -> Callable[..., None]:
    def work(*arguments: object, **options: object) -> None:
        raise error

    return work
