"""What opens, and what says in one line why it does not."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.common.errors import UnfitError
from harness.tracking import opening
from harness.tracking.client import Tracking

PROJECT = Path(opening.__file__).parents[2]
WITHOUT = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """So that no test's clock counts the import."""
    opening.quiet()
    import mlflow  # noqa: F401


def test_eight_processes_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from harness.tracking.client import Tracking
Tracking("sqlite:///first.db").connect()  # imports MLflow, once for all
children = []
for _ in range(8):
    children.append(os.fork())
    if not children[-1]:
        signal.alarm(200)
        store = Tracking()
        experiment = store.experiment("x")
        print(experiment, store.parent(experiment, "p", "abc"), flush=True)
        os._exit(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
    env = {**WITHOUT, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done
    ids = done.stdout.splitlines()
    assert (len(ids), len(set(ids))) == (8, 1), done
    lines = done.stderr.splitlines()  # no alembic, no progress
    assert all(line.startswith(f"waiting for {tmp_path}/mlflow.db.lock, which ") for line in lines), lines


@pytest.mark.parametrize(
    ("uri", "because"),
    [
        ("file:///somewhere/mlruns", "sqlite:///"),
        ("./mlruns", "migrate-filestore"),
        ("sqlite://", "other processes"),
        ("sqlite:///:memory:", "other processes"),
    ],
)
def test_stores_that_cannot_serve_are_refused_with_a_remedy(uri: str, because: str) -> None:
    with pytest.raises(UnfitError, match=because):
        Tracking(uri)


def test_a_sqlite_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/x.db?timeout=3")
    made = Tracking()
    assert made.uri == f"sqlite:///{tmp_path}/sub/x.db?timeout=3"
    assert made.database == tmp_path / "sub" / "x.db"
    assert Tracking("https://host").uri == "https://host"


def refused(uri: str) -> tuple[str, float]:
    """The message of a store that does not open, and the seconds it took; what it may not hold is checked here."""
    begun = time.monotonic()
    with pytest.raises(UnfitError) as raised:
        Tracking(uri).connect()
    message = str(raised.value)
    assert "\n" not in message
    assert "s3cret" not in message
    assert raised.value.exit_code == 3
    return message, time.monotonic() - begun


def test_an_unusable_sqlite_file(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, " * 100)
    message, _ = refused(f"sqlite:///{tmp_path}/text.db")
    assert "file is not a database" in message
    message, _ = refused(f"sqlite:///{tmp_path}/text.db/mlflow.db")
    assert "can be read and written" in message


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message, seconds = refused(f"http://bob:s3cret@127.0.0.1:{port}")
    assert "no answer" in message
    assert "refused" in message
    assert seconds < 10


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PATIENCE", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        _, seconds = refused(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert seconds < 6
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def test_a_database_that_is_not_there() -> None:
    message, seconds = refused("postgresql+psycopg://bob:s3cret@127.0.0.1:9/x")
    assert "MLFLOW_TRACKING_URI" in message
    assert seconds < 10
