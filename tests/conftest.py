"""What all tests share: one thread in the subprocesses they start, and no setting of the person who runs them."""

import gc
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from xdist.scheduler import LoadFileScheduling

from harness.common import collector
from harness.tracking import client, opening

gc.set_threshold(collector.SELDOM)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("HARNESS_THREADS", "1")
logging.getLogger("harness").setLevel(logging.INFO)  # for caplog

MEMORY = Path("/dev/shm")  # temporary folders lie there where there is room: SQLite waits for a disk at each commit
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables, made by one worker for all: its migrations are seconds, a copy is none."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mlflow_tables.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            opening.quiet()
            from mlflow import MlflowClient

            made = path.with_suffix(".new")
            MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments()
            with closing(sqlite3.connect(made)) as connection, connection:
                connection.execute("DELETE FROM experiments")  # the default one, whose artefacts lie beside its store
            made.rename(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _new_stores_are_copies(request: pytest.FixtureRequest) -> Iterator[None]:
    probe = client.probe

    def laid(uri: str, database: Path | None) -> None:
        probe(uri, database)
        if database is not None and os.access(database, os.W_OK) and not database.stat().st_size:
            database.write_bytes(request.getfixturevalue("mlflow_tables").read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "probe", laid)
        yield


@pytest.fixture(autouse=True)
def _no_outside_store() -> Iterator[None]:
    """Neither a person's MLflow, nor one that a test has named for its process: fixtures of a module would find it."""
    forget_stores()
    yield
    forget_stores()


def forget_stores() -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked `long` first: begun last, one of them would keep a worker waiting for the other."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


class FilesInTurn(LoadFileScheduling):
    """A file's tests in one worker, all that use the one Slurm in the same: another would wait for its lock."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "Slurm" if file.startswith("tests/system/") and "slurm" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesInTurn:
    return FilesInTurn(config, log)
