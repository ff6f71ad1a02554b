"""Opening a store of MLflow's: its URI, its quiet, and whether it answers at all. Imports no mlflow."""

import hashlib
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

from harness.common.errors import UnfitError
from harness.common.locks import Lock
from harness.common.redaction import one_line, redact

ENGINES = ("postgresql", "mysql", "mssql", "sqlite")  # that MLflow opens by SQLAlchemy
DATABASE = ("sqlalchemy.exc.SQLAlchemyError", "alembic.util.exc.CommandError")  # what MLflow and Optuna both stand on
PERMISSION = "ask for write access, or use your own experiments: set `prefix: NAME` in harness.yaml"
PATIENCE = 10  # seconds for the first answer; a busy server that asks for a login takes some


def absolute(uri: str) -> str:
    """Return the URI with a SQLite file's place made absolute. Raise UnfitError for folders and stores in memory.

    Other schemes are MLflow's to know, those of stores that plug into it (mlflow.tracking_store) among them.
    """
    scheme, colon, rest = uri.partition(":")
    if scheme == "file" or (not colon and uri not in ("databricks", "databricks-uc")):
        raise UnfitError(
            f"MLflow no longer stores runs in folders ({redact(uri)}): use sqlite:////absolute/path/mlflow.db, "
            "and `mlflow migrate-filestore` for old runs"
        )
    if not scheme.startswith("sqlite"):
        return uri
    path, question, query = rest.removeprefix("///").partition("?")
    if not rest.startswith("///") or path in ("", ":memory:"):
        raise UnfitError(f"{uri}: other processes cannot see it; use sqlite:////absolute/path/mlflow.db")
    return f"{scheme}:///{Path(path).expanduser().absolute()}{question}{query}"


def quiet() -> None:
    """Switch telemetry (both names are read, mlflow/telemetry/utils.py) and chatter off before MLflow is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for name, value in (
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),  # alembic follows it
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),  # it would print a URI's password, and into our JSON
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),  # seconds; a supervisor that waits MLflow's minutes watches no ranks
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
    ):
        os.environ.setdefault(name, value)


@contextmanager
def impatient() -> Iterator[None]:
    """Give requests inside one attempt of PATIENCE seconds, so that a silent server shows soon."""
    short = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {key: os.environ.get(key) for key in short}
    os.environ.update(short)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def readonly(database: Path) -> bool:
    """Return whether this user may look into a SQLite file and not write it."""
    return database.is_file() and os.access(database, os.R_OK) and not os.access(database, os.W_OK)


def check_artefacts(owner: str, location: str, database: Path) -> None:
    """Raise UnfitError where artefacts of an experiment were kept in a folder that is gone, lest it is made again."""
    folder = Path(location.removeprefix("file://"))
    if folder.is_absolute() and not folder.parent.exists() and not folder.is_relative_to(database.parent):
        raise UnfitError(
            f"MLflow {owner} keeps its artefacts in {folder}, which no longer exists: {database} was moved or "
            "copied; move it back, or put it aside: the next run or `harness sync` fills a new one from the "
            "output directory"
        )


def turn(uri: str, database: Path | None) -> AbstractContextManager[object]:
    """Return a lock of this machine's processes on a store; a database that we may only read needs none."""
    if database is None:
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        return Lock(Path(tempfile.gettempdir()) / f"harness-mlflow-{os.getuid()}-{name}.lock")
    if readonly(database):
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return Lock(f"{database}.lock")


def probe(uri: str, database: Path | None) -> None:
    """Fail at once where a database cannot be opened; MLflow itself would try again for minutes."""
    if database and readonly(database):
        return
    if database:
        database.touch()  # SQLite itself would make one that the group may not write, whatever the umask says
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    elif re.split(r"[+:]", uri)[0] in ENGINES:
        import sqlalchemy

        seconds = {"connect_timeout": PATIENCE} if uri.startswith(("postgresql", "mysql")) else {}
        engine = sqlalchemy.create_engine(uri, connect_args=seconds)
        engine.connect().close()
        engine.dispose()


def imported(*names: str) -> list[type[Exception]]:
    """Return the exceptions by "module.Name", of modules that are imported by now: what is not cannot have raised."""
    paths = (name.rpartition(".") for name in names)
    return [getattr(sys.modules[module], name) for module, _, name in paths if module in sys.modules]


def error_message(error: Exception) -> str:
    """Return a failure in one line: of nested network errors the innermost, of a missing driver its package."""
    if isinstance(error, ImportError):
        return f"{one_line(error)}: a driver is not installed (for PostgreSQL: the extra `postgres`)"
    cause = re.search(r"Caused by (.*)", " ".join(str(error).split()))
    return f"no answer ({one_line(cause[1].rstrip(')'))})" if cause else one_line(error)
