"""MLflow as people treat it: runs deleted and experiments renamed in its pages, databases moved, stores plugged in."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import one_model
import pytest
from one_model import attempt, begun, end, made, say

from harness.common.errors import UnfitError
from harness.config.settings import RunOptions
from harness.jobdir.paths import Outcome
from harness.launch import runner
from harness.launch.mlflow_sync import Sync
from harness.plan import plan as plans
from harness.plan.job import Train
from harness.plan.plan import Plan
from harness.tracking import registry, report_from_mlflow, tags
from harness.tracking.client import PARENT, ROLE, Tracking
from harness.tracking.publisher import Publisher, publisher_of
from harness.tracking.store import Store

WITHOUT = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
EVENTS = attempt(0, range(1, 11), 10, 1_800_000_000.0)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def store(database: str, request: pytest.FixtureRequest) -> Tracking:
    return Tracking(database, hashlib.sha256(request.node.name.encode()).hexdigest()[:9])


def finished(root: Path) -> Plan:
    planned = made(root)
    one_model.finished(planned)
    return planned


def under(store: Tracking, planned: Plan) -> dict[str, tuple[str, list[int]]]:
    """Role -> status and steps of the loss, of the plan's runs as its own experiment has them."""
    (experiment,) = planned.experiments
    plan_run = Publisher(planned, Store(store, planned.root)).plan_runs[experiment.name]
    experiment_id, parent = plan_run.ids()
    client = store.connect()
    runs = client.search_runs([experiment_id], f"tags.`{PARENT}` = '{parent}'")
    loss = {run.info.run_id: client.get_metric_history(run.info.run_id, "train/loss") for run in runs}
    return {run.data.tags[ROLE]: (run.info.status, [point.step for point in loss[run.info.run_id]]) for run in runs} | {
        "plan": (store.get(parent).status, [])
    }


def test_tags_of_an_earlier_version_are_read_and_renamed_and_no_run_is_doubled(store: Tracking, tmp_path: Path) -> None:
    planned = finished(tmp_path)
    Sync(tmp_path, store).once()
    client = store.connect()
    experiment_id = client.get_experiment_by_name(f"{store.prefix}one_model").experiment_id

    def runs() -> dict[str, dict[str, str]]:
        return {run.info.run_id: dict(run.data.tags) for run in client.search_runs([experiment_id])}

    present = runs()
    (cell,) = (run for run, stored in present.items() if stored[ROLE] == "cell")
    read = {run: stored.keys() & set(tags.READ) for run, stored in present.items()}
    assert {tags.COMMIT, tags.DEVICE} <= read[cell]
    assert {tags.STEP, tags.OUTCOME} <= set().union(*read.values())
    assert not any(f"{tags.PREFIX}{name}" in stored for stored in present.values() for name in tags.READ)
    for run, names in read.items():
        for name in names:
            client.set_tag(run, f"{tags.PREFIX}{name}", present[run][name])
            client.delete_tag(run, name)
    (review,) = report_from_mlflow.look_up(planned, ["x"], store.uri, store.prefix)
    (result,) = review.results
    assert (result.commit, result.device) == (present[cell][tags.COMMIT], present[cell][tags.DEVICE])
    Sync(tmp_path, store).once()
    assert runs().keys() == present.keys()
    for run, earlier in runs().items():
        tags.migrate(store, store.get(run))
        assert {name for name in earlier if name.removeprefix(tags.PREFIX) in tags.READ} == {
            f"{tags.PREFIX}{name}" for name in read[run]
        }
    assert runs() == present


ALL = {"plan": ("FINISHED", []), "train": ("FINISHED", list(range(1, 11))), "cell": ("FINISHED", [])}


@pytest.mark.parametrize("act", ["delete the plan's run", "rename the experiment", "delete the training's run"])
def test_what_was_taken_away_is_told_anew_under_the_plan(act: str, store: Tracking, tmp_path: Path) -> None:
    planned = finished(tmp_path)
    Sync(tmp_path, store).once()
    assert under(store, planned) == ALL
    client = store.connect()
    experiment = client.get_experiment_by_name(f"{store.prefix}one_model")
    runs = {run.data.tags[ROLE]: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    if act == "rename the experiment":
        client.rename_experiment(experiment.experiment_id, f"{store.prefix}kept for the thesis")
    else:
        client.delete_run(runs["plan" if act == "delete the plan's run" else "train"])
    if act == "delete the training's run":  # the plan's run says that all was told; the next job of the plan looks
        client.set_tag(runs["plan"], "harness.told", "")
    Sync(tmp_path, store).once()
    assert under(store, planned) == ALL
    again = client.search_runs([client.get_experiment_by_name(f"{store.prefix}one_model").experiment_id])
    new = {run.data.tags[ROLE]: run.info.run_id for run in again if run.info.run_id not in runs.values()}
    assert set(new) == ({"train"} if act == "delete the training's run" else {"plan", "train", "cell"})


def test_a_training_goes_on_under_the_plan_that_is_there(store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    job = next(job for job in planned.jobs if isinstance(job, Train))
    folder = begun(planned, job)
    say(folder, *attempt(0, range(1, 5), 4, 1_800_000_000.0))
    publisher = publisher_of(planned, store)
    publisher.open([job])
    publisher.begin(job)
    publisher.end(job, Outcome("preempted"))
    client = store.connect()
    experiment = client.get_experiment_by_name(f"{store.prefix}one_model")
    (plan_run,) = client.search_runs([experiment.experiment_id], f"tags.`{ROLE}` = 'plan'")
    client.delete_run(plan_run.info.run_id)
    say(folder, *attempt(4, range(5, 11), 10, 1_800_001_000.0))
    end(folder, "finished")
    again = publisher_of(planned, store)
    again.open([job])
    again.begin(job)
    again.end(job, Outcome("finished"))
    assert under(store, planned)["train"] == ("FINISHED", list(range(1, 11)))


def test_a_training_of_another_living_plan_is_told_once(store: Tracking, tmp_path: Path) -> None:
    planned = finished(tmp_path)
    Sync(tmp_path, store).once()
    other = plans.make([one_model.FILE], planned.config, tmp_path, 2)  # a second seed as well
    publisher = Publisher(other, Store(store, tmp_path))
    publisher.catch_up(other.experiments[0])
    assert "train" not in under(store, other)
    assert under(store, planned)["train"] == ALL["train"]


# --- databases that were moved


def test_a_moved_database_makes_no_folder_where_it_was(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    before.mkdir()
    planned = finished(before / "runs")
    Sync(planned.root, Tracking(f"sqlite:///{before}/mlflow.db")).once()
    assert list(before.rglob("matrices.npz"))
    before.rename(after)
    there = made(after / "runs")
    store = Tracking(f"sqlite:///{after}/mlflow.db")
    publisher = publisher_of(there, store)
    with pytest.raises(
        UnfitError, match=rf"{before}/mlruns/one_model, which no longer exists: {after}/mlflow.db was moved"
    ):
        publisher.probe(there.jobs, ("harness",))
    with pytest.raises(UnfitError, match=rf"MLflow run '.*' keeps its artefacts in {before}/mlruns/one_model, which"):
        report_from_mlflow.look_up(there, ("harness",), store.uri)
    assert not before.exists()

    fresh = Tracking(f"sqlite:///{after}/new.db")  # MLflow keeps the old one open in this process
    Sync(there.root, fresh).once()
    assert under(fresh, there) == ALL
    assert not before.exists()


def test_artefacts_elsewhere_by_choice_stay_there(tmp_path: Path) -> None:
    store = Tracking(f"sqlite:///{tmp_path}/store/mlflow.db")
    elsewhere = tmp_path / "large disk" / "artefacts"
    store.connect().create_experiment("one_model", artifact_location=str(elsewhere))
    elsewhere.parent.mkdir()
    planned = finished(tmp_path / "runs")
    Sync(planned.root, store).once()
    assert list(elsewhere.rglob("matrices.npz"))


# --- the registry's own address


@pytest.mark.parametrize("uri", ["sqlite:///other.db", "https://me:hush@registry.lab"])
def test_a_registry_elsewhere_is_refused_by_name_before_the_first_job(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    with pytest.raises(UnfitError, match=r"MLFLOW_REGISTRY_URI=.*unset it") as raised:
        runner.connected(RunOptions(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"))
    assert "hush" not in str(raised.value)
    with pytest.raises(UnfitError, match="MLFLOW_REGISTRY_URI"):
        registry.register(Tracking(f"sqlite:///{tmp_path}/mlflow.db"), "x", "run", {}, [], "card")
    assert not list(tmp_path.glob("*.db"))


def test_a_registry_at_the_same_place_is_none_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///mlflow.db")
    assert runner.connected(RunOptions(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")) is not None


# --- stores that plug into MLflow

PLUG_IN = """
def open_store(store_uri, artifact_uri=None):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # not before: MLflow imports plug-ins first

    return SqlAlchemyStore("sqlite:///" + store_uri.partition("://")[2], artifact_uri or "artefacts")
"""
ASK = """
import sys
from pathlib import Path
from harness.tracking.client import Tracking
store = Tracking(sys.argv[1])
run = store.parent(store.experiment("x"), "p", "abc")
store.text(run, "a.txt", "there")
print(store.get(run).name, store.download(run, "a.txt", Path("back")).read_text())
"""


def test_a_store_that_plugs_into_mlflow_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "lab_store.py").write_text(PLUG_IN)
    facts = tmp_path / "lab_store-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-store\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[mlflow.tracking_store]\nlab = lab_store:open_store\n")
    env = {**WITHOUT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(runner.__file__).parents[2]}"}
    answers = [
        subprocess.run(
            [sys.executable, "-c", ASK, uri], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        for uri in (f"lab://{tmp_path}/plugged.db", "nobody://x")
    ]
    assert answers[0].stdout == "p there\n", answers[0].stderr
    assert (tmp_path / "plugged.db").exists()
    last = answers[1].stderr.splitlines()[-1]
    assert last.startswith("harness.common.errors.UnfitError: MLflow at nobody://x: connect: "), last
    assert "lab" in last, "the schemes that are there"
