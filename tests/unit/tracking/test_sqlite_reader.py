"""The reader without MLflow says what MLflow's client says, of one SQLite file for all tests."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from harness.common.errors import UnfitError
from harness.tracking import sqlite_reader
from harness.tracking.client import FINGERPRINT, ROLE, Tracking
from harness.tracking.sqlite_reader import reader

VALUES = [f"{number:016x}" for number in range(20)]


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A store with runs of every kind, asked through MLflow."""
    folder = tmp_path_factory.mktemp("a store")
    made = Tracking(f"sqlite:///{folder}/mlflow.db", "site")
    experiment = made.experiment("ablation")
    parent = made.parent(experiment, "plan", "0" * 16)
    for number, value in enumerate(VALUES[:4]):
        run = made.child(experiment, parent, f"cell {number}", {FINGERPRINT: value}, {ROLE: "cell", "odd": "a 'b' ü\n"})
        made.log(run, [("final/miou", 40.0 + number, 1, 1000), ("loss", float("nan"), 2, 1000), ("loss", 1.5, 3, 1000)])
        made.log(run, [("broken", float("nan"), 1, 1000)])
        made.params(run, {"method": "Decoder A", "seed": number})
        if number < 3:
            made.finish(run, "FAILED" if number == 2 else "FINISHED")
    again = made.child(experiment, parent, "again", {FINGERPRINT: VALUES[0], "n": "2"}, {ROLE: "cell"})
    made.finish(again, "FINISHED")
    made.text(again, "report/panels/a.txt", "A\n")
    made.text(again, "matrices.txt", "M")
    client = made.connect()
    client.delete_run(made.child(experiment, parent, "deleted", {FINGERPRINT: VALUES[5]}, {ROLE: "cell"}))
    client.delete_experiment(made.experiment("deleted"))
    made.experiment("other")
    Tracking(made.uri, "elsewhere").experiment("ablation")
    return made


@pytest.fixture
def alone(mlflow: Tracking) -> Tracking:
    """The same store, asked without MLflow."""
    return Tracking(mlflow.uri, "site")


ASKED: dict[str, Callable[[Tracking], object]] = {
    "a few": lambda store: store.find("ablation", VALUES[:6]),
    "a few that did not end": lambda store: store.find("ablation", VALUES[:6], ended=False),
    "many": lambda store: store.find(None, VALUES),
    "no such experiment": lambda store: store.find("absent", VALUES),
    "a deleted experiment": lambda store: store._experiments("deleted"),
    "experiments": lambda store: sorted(store._experiments(None)),
    "children": lambda store: store.children(store._experiments("ablation")[0], parent(store), {ROLE: "cell"}),
    "children by an odd value": lambda store: store.children(
        store._experiments("ablation")[0], parent(store), {"odd": "a 'b' ü\n"}
    ),
    "running": lambda store: store.running(),
    "a run": lambda store: store.get(parent(store)),
    "a link": lambda store: store.link(parent(store)),
}


def parent(store: Tracking) -> str:
    return store.find("ablation", ["0" * 16], tag="harness.plan", ended=False)["0" * 16].run_id


@pytest.mark.parametrize("question", ASKED)
def test_it_says_what_mlflow_says(question: str, mlflow: Tracking, alone: Tracking) -> None:
    theirs, ours = ASKED[question](mlflow), ASKED[question](alone)
    assert repr(ours) == repr(theirs)  # nan is nan
    assert alone._client is None


def test_artefacts_are_copied(mlflow: Tracking, alone: Tracking, tmp_path: Path) -> None:
    run = mlflow.find("ablation", VALUES[:1])[VALUES[0]].run_id
    for store, folder in ((mlflow, tmp_path / "theirs"), (alone, tmp_path / "ours")):
        assert store.download(run, "matrices.txt", folder).read_text() == "M"
        assert store.download(run, "report/panels", folder) == folder / "panels"
        assert store.download(run, "report/panels/a.txt", folder) == folder / "a.txt"
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")) == [
            *("a.txt", "matrices.txt", "panels/a.txt"),
        ]
    assert alone._client is None


def test_what_is_absent_is_said_in_mlflows_words(mlflow: Tracking, alone: Tracking, tmp_path: Path) -> None:
    run = parent(mlflow)
    messages = []
    for store in (mlflow, alone):
        with pytest.raises(UnfitError) as error:
            store.download(run, "absent.txt", tmp_path)
        messages.append(str(error.value))
        with pytest.raises(UnfitError) as error:
            store.get("0" * 32)
        messages.append(str(error.value))
    assert messages[:2] == messages[2:]


def test_mlflow_is_asked_for_other_schemas(
    mlflow: Tracking, alone: Tracking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert mlflow.database is not None
    with closing(sqlite3.connect(mlflow.database)) as source, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        source.backup(copy)
        copy.execute("UPDATE experiments SET workspace = 'team' WHERE name = 'site/other'")
        copy.commit()
    assert reader(tmp_path / "copy.db") is None
    monkeypatch.setattr(sqlite_reader, "SCHEMAS", frozenset({"another"}))
    assert reader(alone.database) is None
    alone.check()
    assert alone._client is not None


def test_no_file_of_ours_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database")
    for name in ("absent.db", "empty.db", "text.db"):
        assert reader(tmp_path / name) is None
    assert reader(None) is None
    assert not (tmp_path / "absent.db").exists()
