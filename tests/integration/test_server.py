"""A real MLflow server on PostgreSQL: logins, artefacts of its own keeping, no secrets; killed, also on SQLite."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import WITHOUT, Server, served
from one_model import FILE, TINY, attempt, begun, end, evaluated, events_of, made, say

from harness.common.errors import UnfitError
from harness.config.plugins import PROJECT
from harness.jobdir.paths import Outcome
from harness.launch.launchers._environment import child_environment
from harness.launch.mlflow_sync import Sync
from harness.plan.job import Train
from harness.tracking import report_from_mlflow
from harness.tracking import store as store_module
from harness.tracking.client import FINGERPRINT, Tracking
from harness.tracking.publisher import publisher_of

EVENTS = [*attempt(0, range(1, 8), 4, 1_800_000_000.0), *attempt(4, range(5, 11), 10, 1_800_001_000.0)]


@pytest.fixture(scope="module", params=["postgresql"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("elsewhere") / "server", request.param) as running:
        yield running


BOTH = pytest.mark.parametrize("server", ["postgresql", "sqlite"], indirect=True)


@pytest.fixture
def login(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for key, value in server.login.items():
        monkeypatch.setenv(key, value)
    return server


@BOTH
@pytest.mark.timeout(1800)
def test_killed_and_restarted_in_the_middle_it_has_lost_nothing(
    login: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "RETRY", 0.0)
    planned = made(tmp_path / "root")
    job = next(job for job in planned.jobs if isinstance(job, Train))
    folder = begun(planned, job)
    store = Tracking()
    store.connect()
    publisher = publisher_of(planned, store)
    publisher.open([job])
    publisher.begin(job)
    say(folder, *EVENTS[:6])
    publisher.hear(job, events_of(EVENTS[:6]))
    login.kill()
    with pytest.raises(UnfitError, match="no answer"):  # at the start it is refused
        Tracking().connect()
    say(folder, *EVENTS[6:])
    publisher.hear(job, events_of(EVENTS[6:]))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("harness")]
    assert ["the jobs continue" in line for line in ours] == [True]
    login.start()
    publisher.hear(job, [])
    end(folder, "finished")
    publisher.end(job, Outcome("finished"))
    evaluated(planned)
    assert Sync(tmp_path / "root", store).once() == 0

    client = store.connect()
    (run,) = store.find(None, [job.fingerprint], FINGERPRINT).values()
    loss = client.get_metric_history(run.run_id, "train/loss")
    assert [point.step for point in loss] == list(range(1, 11))
    place = client.get_experiment(run.experiment_id).artifact_location
    assert place.startswith("mlflow-artifacts:"), "only a local SQLite store is told where artefacts lie"
    assert list((login.folder / "artefacts").rglob("matrices.npz"))
    (found,) = report_from_mlflow.look_up(planned, ("harness",))  # downloads what the server keeps
    (row,) = found.rows
    assert row.status == "done"


@pytest.mark.timeout(1800)
def test_no_password_is_told_to_anybody(server: Server, tmp_path: Path) -> None:
    """The login in the URI, as people do; every word printed, written or sent is looked through."""
    planned = made(tmp_path / "root")
    job = next(job for job in planned.jobs if isinstance(job, Train))
    folder = begun(planned, job)
    say(folder, *EVENTS)
    end(folder, "failed", f"OperationalError: postgresql://u:{server.password}@host/db did not answer")
    host = server.uri.removeprefix("http://")
    good, bad = (f"http://admin:{word}@{host}" for word in (server.password, f"{server.password}-not"))
    said = [harness(tmp_path, good, "sync", "--root", "root", "--all")]
    said += [harness(tmp_path, bad, "sync", "--root", "root", "--all")]
    said += [harness(tmp_path, f"http://admin:{server.password}@127.0.0.1:1", "sync", "--root", "root")]
    said += [harness(tmp_path, f"postgresql://u:{server.password}@127.0.0.1:1/db", "sync", "--root", "root")]
    said += [harness(tmp_path, good, "doctor", FILE, *TINY, "--root", "root")]
    assert [done.returncode for done in said[:4]] == [0, 3, 3, 3], [done.stderr for done in said]
    for done in said:
        assert server.password not in done.stdout + done.stderr
    (folder / "outcome.json").unlink()  # that one we planted ourselves
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or server.password.encode() not in path.read_bytes(), path
    assert server.password not in json.dumps(everything(server))


def everything(server: Server) -> list[object]:
    """All runs and experiments of a store, as their clients see them."""
    code = (
        "import json, mlflow; c = mlflow.MlflowClient(); e = c.search_experiments();"
        "r = [x.to_dictionary() for x in c.search_runs([x.experiment_id for x in e])];"
        "print(json.dumps([r, [dict(x.tags) for x in e]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=WITHOUT | server.login, capture_output=True, check=True)
    told: list[object] = json.loads(done.stdout)
    assert told[0]
    return told


def harness(folder: Path, uri: str, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {**WITHOUT, "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "harness.cli", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1500, check=False)


def test_ranks_get_no_login(login: Server) -> None:
    assert login.password in os.environ.values()
    assert login.password not in child_environment().values()


@BOTH
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_run_survives_the_servers_death(server: Server, tmp_path: Path) -> None:
    """The command line as a person uses it; the server is killed while ranks train, and started again."""
    env = {**WITHOUT, **server.login, "HARNESS_THREADS": "1"}
    words = ["run", FILE, *TINY, "train.epochs=60", "seed=7", "--json"]
    command = [sys.executable, "-m", "harness.cli", *words]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.rglob("*.pt")):
        assert running.poll() is None, running.communicate()
    server.kill()
    server.start()
    out, said = running.communicate(timeout=900)
    assert running.returncode in (0, 3), said  # 3 where it was away at the very end: told by the next run
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1500, check=True)
    (row,) = json.loads(again.stdout)["experiments"][0]["rows"]
    assert row["status"] == "done"
    assert row["runs"][0]["run_id"]
    del out


# --- rights and artefacts, before the first job


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
@pytest.mark.timeout(1800)
def test_who_may_only_read_is_refused_before_the_first_job_and_has_a_prefix_of_his_own(
    server: Server, tmp_path: Path
) -> None:
    """default_permission=READ: an experiment is its maker's, and the next person's by a prefix."""
    admin = {**WITHOUT, **server.login, "HARNESS_THREADS": "1"}
    code = "from mlflow.server import get_app_client; import sys; "
    code += "get_app_client('basic-auth', tracking_uri=sys.argv[1]).create_user('ben', sys.argv[2])"
    password = f"{server.password}-ben"
    subprocess.run([sys.executable, "-c", code, server.uri, password], env=admin, check=True, capture_output=True)
    ask = "from harness.tracking.client import Tracking; Tracking().experiment('one_model')"
    subprocess.run([sys.executable, "-c", ask], env={**admin, "PYTHONPATH": str(PROJECT)}, check=True)
    ben = {**admin, "MLFLOW_TRACKING_USERNAME": "ben", "MLFLOW_TRACKING_PASSWORD": password}
    words = [sys.executable, "-m", "harness.cli", "run", FILE, *TINY, "--json"]
    refused = subprocess.run(words, cwd=tmp_path, env=ben, capture_output=True, text=True, timeout=1500, check=False)
    assert refused.returncode == 3, refused.stderr
    last = refused.stderr.splitlines()[-1]
    first = "(parent|text)"  # the plan's run is made, or there since another test
    assert re.match(rf"harness: MLflow at {re.escape(server.uri)}: {first}: ", last), refused.stderr
    assert "403" in last
    assert last.endswith("use your own experiments: set `prefix: NAME` in harness.yaml")
    assert "the jobs continue" not in refused.stderr
    assert not list(tmp_path.glob("runs/jobs/*/events.jsonl")), "nothing was trained"

    (tmp_path / "harness.yaml").write_text("prefix: ben\n")
    done = subprocess.run(words, cwd=tmp_path, env=ben, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["experiments"][0]["rows"]
    assert row["runs"][0]["run_id"]


@pytest.mark.timeout(900)
def test_an_artefact_folder_that_cannot_be_reached_is_said_before_the_first_job(tmp_path: Path) -> None:
    """As `mlflow server --no-serve-artifacts --default-artifact-root` at a folder of the server's own machine."""
    (tmp_path / "file").touch()
    ask = "import sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]); "
    ask += "c.create_experiment('one_model', artifact_location=sys.argv[2])"
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    subprocess.run([sys.executable, "-c", ask, uri, f"{tmp_path}/file/mlruns"], env=WITHOUT, check=True)
    done = harness(tmp_path, uri, "run", FILE, *TINY)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"harness: MLflow at {uri}: text: "), done.stderr
    assert "Not a directory" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("runs/jobs/*/events.jsonl")), "nothing was trained"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FAILED"], "none is left RUNNING"
