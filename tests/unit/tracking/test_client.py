"""On a real SQLite store, one for the whole file: MLflow takes seconds to make one."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pandas as pd
import pytest

from harness.common.errors import UnfitError
from harness.tracking import client as tracking
from harness.tracking.client import FINGERPRINT, ROLE, SOURCE, Tracking

PROJECT = Path(tracking.__file__).parents[2]
WITHOUT = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def store(home: Path) -> Tracking:
    """Opened by its default place: the working directory, no MLFLOW_TRACKING_URI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(home)
        made = Tracking(prefix="site")
        made.connect()
    return made


@pytest.fixture(scope="module")
def experiment(store: Tracking) -> str:
    return store.experiment("ablation")


@pytest.fixture
def run(store: Tracking, experiment: str, request: pytest.FixtureRequest) -> str:
    parent = store.parent(experiment, "plan", "0" * 16)
    return store.child(experiment, parent, request.node.name, {"test": request.node.name})


def history(store: Tracking, run: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.connect().get_metric_history(run, key)]


# --- what others see


def test_a_bare_client_in_that_folder_sees_the_runs(
    store: Tracking, experiment: str, run: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(home)
    client = mlflow.MlflowClient()
    assert client.get_experiment(experiment).name == "site/ablation"
    found = client.get_run(run)
    assert found.info.status == "RUNNING"
    assert found.data.tags["mlflow.parentRunId"] == store.parent(experiment, "plan", "0" * 16)
    assert found.info.artifact_uri.startswith(str(home / "mlruns" / "site" / "ablation"))


def test_importing_the_file_imports_no_mlflow() -> None:
    code = "import sys, harness.tracking.client as t; t.Tracking('sqlite:////nowhere/x.db').find(None, ['a']); "
    code += "print('mlflow' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=WITHOUT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_no_active_run_no_run_id_no_telemetry(store: Tracking, run: str) -> None:
    import mlflow
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert mlflow.active_run() is None
    assert "MLFLOW_RUN_ID" not in os.environ
    assert is_telemetry_disabled()


# --- runs


def test_a_plan_has_one_parent(store: Tracking, experiment: str) -> None:
    first = store.parent(experiment, "a", "a1b2", {ROLE: "suite"}, {"epochs": 3}, "## What")
    assert store.parent(experiment, "again", "a1b2") == first
    assert store.parent(experiment, "other", "c3d4") != first
    run = store.get(first)
    assert (run.name, run.status, run.params) == ("a", "RUNNING", {"epochs": "3"})
    assert run.tags["mlflow.note.content"] == "## What"


def test_a_child_is_found_by_its_key_and_parent(store: Tracking, experiment: str) -> None:
    one, two = (store.parent(experiment, "p", plan) for plan in ("e1", "e2"))
    key = {"cell": "a", "odd": 'it\'s "x" 100%'}
    child = store.child(experiment, one, "a/seed0", key, {FINGERPRINT: "aa"}, {"lr": 0.1})
    assert store.child(experiment, one, "a/seed0", key) == child
    assert store.child(experiment, one, "a/seed1", {**key, "odd": 'it\'s "y" 100%'}) != child
    assert store.child(experiment, two, "a/seed0", key) != child
    assert store.get(child).tags["mlflow.parentRunId"] == one


def test_a_child_that_ended_stays_ended_until_it_is_resumed(store: Tracking, experiment: str, run: str) -> None:
    for status in ("FINISHED", "FAILED", "KILLED"):
        store.finish(run, status)
        assert store.get(run).status == status
    parent = store.get(run).tags["mlflow.parentRunId"]
    again = store.child(experiment, parent, "x", {"test": store.get(run).tags["test"]})
    assert (again, store.get(run).status) == (run, "KILLED")
    store.resume(run)
    assert store.get(run).status == "RUNNING"


def test_mlflow_knows_no_pruned(store: Tracking, run: str) -> None:
    with pytest.raises(ValueError, match="PRUNED"):
        store.finish(run, "PRUNED")


def test_running_lists_what_nobody_ended(store: Tracking, run: str) -> None:
    store.tag(run, {ROLE: "cell"})
    assert run in [found.run_id for found in store.running("ablation")]
    store.finish(run, "KILLED")
    assert run not in [found.run_id for found in store.running()]
    assert store.running("no such experiment") == []


# --- what runs hold


def test_a_replayed_journal_doubles_no_point(store: Tracking, run: str) -> None:
    points = [("train/loss", 1 / (step + 1), step, 1000 + step) for step in range(1500)]
    points += [("train/odd", math.nan, 0, 5)] * 2
    store.log(run, points[:700])
    store.log(run, points)
    store.log(run, points)
    assert history(store, run, "train/loss") == [(step, value) for _, value, step, _ in points[:1500]]
    assert len(history(store, run, "train/odd")) == 1


def test_one_step_may_have_another_value_later(store: Tracking, run: str) -> None:
    store.log(run, [("x", 1.0, 3, 10)])
    store.log(run, [("x", 2.0, 3, 20)])
    assert history(store, run, "x") == [(3, 1.0), (3, 2.0)]


def test_keys_and_values_are_brought_into_mlflows_limits(store: Tracking, run: str) -> None:
    store.log(run, [("iou[wall] @ val", 0.5, 0, 1)])
    store.params(run, {**{f"p{i}": i for i in range(150)}, "long": "x" * 7000, "none": None})
    store.tag(run, {**{f"t{i}": i for i in range(150)}, "long": "y" * 9000})
    found = store.get(run)
    assert found.metrics["iou_wall_ _ val"] == 0.5
    assert len(found.params) == 151
    assert len(found.params["long"]) == 6000
    assert found.tags["t149"] == "149"
    assert len(found.tags["long"]) == 8000


def test_a_parameter_keeps_its_first_value(store: Tracking, run: str) -> None:
    store.params(run, {"workers": 2})
    store.params(run, {"workers": 4, "seed": 0})
    assert store.get(run).params == {"workers": "2", "seed": "0"}


def test_a_dataset_is_linked_once_by_a_short_digest(store: Tracking, run: str) -> None:
    for _ in range(2):
        store.dataset(run, "vspw-val", "ab" * 32, "eval", "/data/vspw")
    store.dataset(run, "synthetic-train", None, "training", "synthetic")
    inputs = {entry.dataset.name: entry for entry in store.connect().get_run(run).inputs.dataset_inputs}
    assert set(inputs) == {"vspw-val", "synthetic-train"}
    assert inputs["vspw-val"].dataset.digest == "ab" * 16
    assert inputs["vspw-val"].tags[0].value == "eval"


def test_artefacts_come_back_and_are_replaced(store: Tracking, run: str, tmp_path: Path) -> None:
    local = tmp_path / "matrix.npz"
    local.write_bytes(b"\x00\x01")
    store.file(run, local, "videos")
    for text in ("first", "second"):
        store.text(run, "report/report.md", text)
    store.json(run, "config/resolved.json", {"a": [1, None]})
    assert store.download(run, "videos/matrix.npz", tmp_path / "back").read_bytes() == b"\x00\x01"
    assert (store.download(run, "videos", tmp_path / "all") / "matrix.npz").exists()
    assert store.download(run, "report/report.md", tmp_path / "back").read_text() == "second"
    assert json.loads(store.download(run, "config/resolved.json", tmp_path / "back").read_text()) == {"a": [1, None]}


def test_a_table_logged_twice_has_its_rows_once(store: Tracking, run: str) -> None:
    for _ in range(2):
        store.table(run, "tables/t.json", pd.DataFrame({"class": ["wall"], "iou": [0.5]}))
    written = json.loads((Path(store.get(run).artifact_uri) / "tables" / "t.json").read_text())
    assert written == {"columns": ["class", "iou"], "data": [["wall", 0.5]]}
    assert json.loads(store.get(run).tags["mlflow.loggedArtifacts"]) == [{"path": "tables/t.json", "type": "table"}]


def test_notes_are_cut_at_a_line(store: Tracking, experiment: str, run: str) -> None:
    store.note(experiment, "## Title\n" + "row of a table\n" * 3000)
    note = store.connect().get_experiment(experiment).tags["mlflow.note.content"]
    assert 19_900 < len(note) <= 20_000
    assert note.endswith("row of a table\n…")
    store.describe(run, "z" * 9000)
    assert len(store.get(run).tags["mlflow.note.content"]) == 8000


# --- what came out


@pytest.fixture(scope="module")
def finished(store: Tracking) -> dict[str, str]:
    """More cells than are asked for one by one: fingerprint -> run."""
    place = store.experiment("many")
    parent = store.parent(place, "p", "f0")
    runs = {}
    for i in range(tracking.FEW + 4):
        print_ = f"{i:016x}"
        runs[print_] = store.child(place, parent, f"c{i}", {"cell": f"c{i}"}, {FINGERPRINT: print_})
        store.finish(runs[print_], "FINISHED")
    return runs


def test_find_by_many_fingerprints(store: Tracking, finished: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PAGE", 7)
    asked = [*finished, *(f"absent{i}" for i in range(120))]
    assert {k: run.run_id for k, run in store.find("many", asked).items()} == finished
    assert {k: run.run_id for k, run in store.find(None, asked).items()} == finished


def test_find_by_a_few(store: Tracking, finished: dict[str, str]) -> None:
    few = dict(list(finished.items())[:2])
    assert {k: run.run_id for k, run in store.find("many", [*few, "absent"]).items()} == few
    assert store.find("many", []) == {}
    assert store.find("ablation", few) == {}
    assert store.find("no such experiment", few) == {}


def test_find_looks_at_finished_runs_with_the_prefix_only(store: Tracking, run: str) -> None:
    store.tag(run, {FINGERPRINT: "beef", "harness.recipe": "cafe"})
    assert store.find(None, ["beef"]) == {}
    store.finish(run, "FINISHED")
    assert store.find(None, ["beef"])["beef"].run_id == run
    assert store.find(None, ["cafe"], tag="harness.recipe")["cafe"].run_id == run
    assert Tracking(store.uri, prefix="elsewhere").find(None, ["beef"]) == {}


def test_find_prefers_the_newest_and_the_run_that_did_the_work(store: Tracking, experiment: str) -> None:
    parent = store.parent(experiment, "p", "ab")
    runs = []
    for cell, extra in (("old", {}), ("new", {}), ("pointer", {SOURCE: "x"})):
        runs.append(store.child(experiment, parent, cell, {"cell": cell}, {FINGERPRINT: "5eed", **extra}))
        store.log(runs[-1], [("final/mIoU", 41.5, 0, 1)])
        store.finish(runs[-1], "FINISHED")
        time.sleep(0.01)
    found = store.find("ablation", ["5eed"])["5eed"]
    assert found.run_id == runs[1]
    assert found.metrics == {"final/mIoU": 41.5}


def test_find_takes_no_quotes(store: Tracking) -> None:
    with pytest.raises(ValueError, match="not an id or digest"):
        store.find(None, ["x' or '1' = '1"])


def test_looking_does_not_make_a_store(tmp_path: Path) -> None:
    absent = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert absent.find(None, ["a"]) == {}
    assert absent.running() == []
    assert list(tmp_path.iterdir()) == []


def test_links(store: Tracking, run: str, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"mlflow ui --backend-store-uri {store.uri} " in store.link(run)
    monkeypatch.setattr(store, "uri", "https://bob:s3cret@host/mlflow/")
    expected = f"https://bob:***@host/mlflow/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"
    assert store.link(run) == expected


# --- failures, and a server


def test_mlflows_own_errors_become_one_line(store: Tracking) -> None:
    with pytest.raises(UnfitError, match=r"^MLflow at sqlite.*get: .*not found"):
        store.get("0" * 32)


def test_a_deleted_experiment_is_named(store: Tracking) -> None:
    store.connect().delete_experiment(store.experiment("gone"))
    with pytest.raises(UnfitError, match="'site/gone' was deleted"):
        store.experiment("gone")


@pytest.mark.slow
def test_a_real_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[Any] = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", port]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/s.db", "--artifacts-destination", tmp_path / "a"]
    server = subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=WITHOUT, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        wait(uri)
        store = Tracking(uri)
        place = store.experiment("x")
        run = store.child(place, store.parent(place, "p", "ab"), "c", {"cell": "c"}, {FINGERPRINT: "aa"})
        for _ in range(2):
            store.log(run, [("loss", 1.0, step, step) for step in range(1200)])
        store.text(run, "a/b.txt", "hello")
        store.finish(run, "FINISHED")
        assert len(history(store, run, "loss")) == 1200
        assert store.find(None, ["aa"])["aa"].run_id == run
        assert store.download(run, "a/b.txt", tmp_path / "back").read_text() == "hello"
        assert store.link(run).startswith(f"{uri}/#/experiments/{place}/runs/{run}")
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def wait(uri: str, seconds: float = 120) -> None:
    """Until the server says that it is healthy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            assert urlopen(f"{uri}/health", timeout=2).status == 200
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(uri)
