"""`report` looks: at a store that is not there it makes none, and reads the root instead. A store is tried first."""

import os
from pathlib import Path

import one_model
import pytest

from harness import cli
from harness.common.errors import UnfitError
from harness.tracking.client import Tracking
from harness.tracking.opening import absolute
from harness.tracking.publisher import COMMAND, publisher_of


@pytest.fixture(autouse=True)
def mistyped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database that MLFLOW_TRACKING_URI names and that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mistyped.db")
    return tmp_path / "mistyped.db"


def test_a_root_without_a_store_is_reported_from_its_files(
    tmp_path: Path, mistyped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_model.finished(one_model.made(tmp_path / "runs"))
    before = {path.name for path in tmp_path.iterdir()}
    assert cli.main(["report", one_model.FILE, *one_model.TINY]) == 0
    said = capsys.readouterr()
    assert f"{mistyped}: no such database; this report is made from the files in runs" in said.err
    assert "UPerNet" in said.out
    assert "not run yet" not in said.out
    assert {path.name for path in tmp_path.iterdir()} == before
    assert cli.main(["report", one_model.FILE, *one_model.TINY, "--out", "page"]) == 0
    assert (tmp_path / "page" / "one_model" / "index.html").exists()


def test_where_there_is_neither_it_is_said(mistyped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", one_model.FILE, *one_model.TINY]) == 3
    assert f"{mistyped}: no such database, and runs has no results" in capsys.readouterr().err
    assert not mistyped.exists()


def test_a_home_is_the_home() -> None:
    assert absolute("sqlite:///~/x.db") == f"sqlite:///{os.path.expanduser('~')}/x.db"


def test_a_store_is_asked_for_what_it_was_given(tmp_path: Path) -> None:
    planned = one_model.made(tmp_path / "runs")
    store = Tracking(f"sqlite:///{tmp_path}/store/mlflow.db")
    publisher = publisher_of(planned, store)
    publisher.probe(planned.jobs, ("harness", "run"))
    run = publisher.plan_runs["one_model"].run
    assert store.download(run, COMMAND, tmp_path / "back").read_text() == "harness run"

    (tmp_path / "store" / "mlruns").rename(tmp_path / "store" / "gone")
    (tmp_path / "store" / "mlruns").touch()  # no folder can be made there
    with pytest.raises(UnfitError, match=r"MLflow at .*: text: "):
        publisher.probe(planned.jobs, ("harness", "run"))
