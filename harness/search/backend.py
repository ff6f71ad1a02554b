"""The storage of studies: a journal file or a database, opened by Optuna.

Every failure of a storage is an UnfitError of one line without passwords.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.common.errors import UnfitError, UsageError
from harness.common.locks import Lock
from harness.common.redaction import one_line, redact
from harness.tracking.opening import DATABASE, absolute, imported

PATIENCE = 8  # seconds for the first answer of a server
SCHEMES = ("postgresql", "mysql", "sqlite")
OWN = "study.journal"  # in the study's folder, where no other storage is asked for


class FileTurn:
    """The lock of a journal file: the kernel's, which a process that is killed gives back at once.

    Optuna's own are files that a killed process leaves behind; the others would wait half a minute for each. What a
    process wrote by half when it died is cut off before the next one writes, since a torn line would spoil the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock(f"{path}.lock")

    def acquire(self) -> bool:
        """Wait for one's turn to write."""
        self._lock.__enter__()
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if size and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the file to the next writer."""
        self._lock.__exit__(None, None, None)


class Storage:
    """The storage of studies: a journal file, or a database by its URL; opened at first use.

    Raises UsageError for a URL that Optuna has no storage for.
    """

    def __init__(self, url: str | None, folder: Path) -> None:
        self.folder = folder
        self.url = url or str(folder / OWN)
        scheme = self.url.partition("://")[0].partition("+")[0] if "://" in self.url else ""
        if scheme and scheme not in SCHEMES:
            schemes = ", ".join(f"{name}://…" for name in SCHEMES)
            raise UsageError(f"--storage {redact(self.url)}: neither a file path nor one of {schemes}")
        self.database = bool(scheme)

    @property
    def shown(self) -> str:
        """For people: without a password."""
        return redact(self.url)

    @property
    def whole(self) -> str:
        """The URL or the path as it holds in every directory; with its password."""
        return absolute(self.url) if self.database else str(Path(self.url).resolve())

    @property
    def address(self) -> str:
        """Return the normalised address: `OWN`, an absolute path, or a URL without its password."""
        return OWN if self.whole == str((self.folder / OWN).resolve()) else redact(self.whole)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turn failures of the storage into an UnfitError of one line."""
        try:
            yield
        except failures() as error:
            text = one_line(error.__cause__ or error)
            hint = " (for PostgreSQL: the extra `postgres`)" if isinstance(error, ImportError) else ""
            raise UnfitError(
                f"--storage {self.shown}: {text}{hint}; check that it answers and can be written"
            ) from error

    def open(self) -> Any:
        """Return Optuna's storage; tables are made by one process."""
        with self.speaking(), self.turn():
            return self._opened()

    def look(self) -> Any:
        """Return Optuna's storage as `open` has it, or None where there is none yet: nothing is made."""
        with self.speaking():
            return self._opened() if self._exists() else None

    def _opened(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not self.database:
            path = Path(self.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            from optuna.storages import journal

            backend: Any = journal.JournalFileBackend
            return optuna.storages.JournalStorage(backend(str(path), lock_obj=FileTurn(path)))
        url, options = self._engine
        return optuna.storages.RDBStorage(url, engine_kwargs=options)

    def _exists(self) -> bool:
        if not self.database or self.url.startswith("sqlite"):
            path = self.url if not self.database else absolute(self.url).partition(":///")[2].partition("?")[0]
            if not Path(path).is_file():  # SQLite would make it
                return False
        if not self.database:
            return True
        import sqlalchemy

        url, options = self._engine
        engine = sqlalchemy.create_engine(url, **options)
        try:
            return bool(sqlalchemy.inspect(engine).has_table("studies"))
        finally:
            engine.dispose()

    @property
    def _engine(self) -> tuple[str, dict[str, object]]:
        """SQLAlchemy's URL and options."""
        server = not self.url.startswith("sqlite")
        options: dict[str, object] = {"connect_args": {"connect_timeout": PATIENCE}, "pool_pre_ping": True}
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1), options if server else {}

    def turn(self) -> Lock:
        """Return the lock for what one process may do at a time: making tables, and taking a trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Lock(self.folder / "turn.lock")


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that Optuna and its storage libraries raise."""
    return (OSError, ImportError, ValueError, *imported(*DATABASE, "optuna.exceptions.StorageInternalError"))
