"""What MLflow hears: each step once whatever happened, true statuses, nothing lost; and a store made again."""

import json
from pathlib import Path
from typing import Any

import pytest
from one_model import EVENTS, T0, begun, end, evaluated, events_of, finished, made, say

from harness.common.errors import UnfitError
from harness.jobdir.lease import Claim
from harness.jobdir.paths import Outcome
from harness.launch import runner
from harness.launch.mlflow_sync import Sync
from harness.plan.job import Train
from harness.plan.outcome import ENDED
from harness.plan.plan import Plan
from harness.results.rows_json import rows_json
from harness.tracking import publisher as publish
from harness.tracking import report_from_mlflow, training_run
from harness.tracking import store as store_module
from harness.tracking.client import ROLE, Found, Tracking
from harness.tracking.publisher import Publisher, publisher_of
from harness.tracking.store import Store

# --- on a real SQLite store


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def store(database: str, request: pytest.FixtureRequest) -> Tracking:
    """A prefix a test, so that one database serves all."""
    return Tracking(database, request.node.name[:60])


def runs(store: Tracking) -> dict[str, Found]:
    """By role; the experiment has one of each."""
    client = store.connect()
    known = client.get_experiment_by_name(f"{store.prefix}one_model")
    found = [store.get(run.info.run_id) for run in client.search_runs([known.experiment_id])] if known else []
    assert len({run.tags[ROLE] for run in found}) == len(found), "a run was made twice"
    return {run.tags[ROLE]: run for run in found}


def steps(store: Tracking, run: Found) -> list[int]:
    return [point.step for point in store.connect().get_metric_history(run.run_id, "train/loss")]


def training(planned: Plan) -> Train:
    return next(job for job in planned.jobs if isinstance(job, Train))


def test_a_run_that_was_told_by_two_has_each_step_once(store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)
    first, second = (publisher_of(planned, Tracking(store.uri, store.prefix)) for _ in range(2))
    first.begin(job)
    for at in range(0, len(EVENTS), 3):
        say(folder, *EVENTS[at : at + 3])
        first.hear(job, events_of(EVENTS[at : at + 3]))
        if at == 9:
            second.begin(job)  # `harness sync --follow` beside the supervisor
    end(folder, "finished")
    first.end(job, Outcome("finished"))
    Sync(tmp_path, store, afresh=True).once()
    found = runs(store)
    assert steps(store, found["train"]) == list(range(1, 11))
    assert (found["train"].status, found["train"].tags["step"]) == ("FINISHED", "10/10")


@pytest.mark.parametrize("status", sorted(ENDED))
def test_statuses_are_true(status: str, store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)
    publisher = publisher_of(planned, store)
    publisher.open([job])
    publisher.begin(job)
    assert {run.status for run in runs(store).values()} == {"RUNNING"}
    say(folder, *EVENTS[:6])
    end(folder, status, "said so")
    publisher.end(job, Outcome(status, "said so"))
    found = runs(store)["train"]
    assert (found.status, found.tags["outcome"]) == (ENDED[status], status)


def test_sync_closes_what_is_dead(store: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)
    publisher = publisher_of(planned, store)
    publisher.open([job])
    publisher.begin(job)  # and then the supervisor is killed: no outcome, no word
    say(folder, *EVENTS[:6])
    assert Sync(tmp_path, store).once() == 0
    found = runs(store)
    assert (found["train"].status, found["plan"].status) == ("FAILED", "FAILED")
    assert "supervisor died" in found["train"].tags["reason"]
    assert steps(store, found["train"]) == [1, 2, 3, 4]
    assert any("lost; now FAILED in MLflow" in line for line in caplog.messages)
    caplog.clear()
    Sync(tmp_path, store).once()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("training_ends", "evaluation_ends", "status"),
    [
        ("finished", None, "KILLED"),  # killed between the two
        ("cancelled", None, "KILLED"),  # Ctrl-C
        ("preempted", None, "KILLED"),
        ("preempted", "cancelled", "KILLED"),  # scancel, so Slurm's next job has nothing to read
        ("failed", None, "FAILED"),
        ("stalled", None, "FAILED"),
        ("failed", "cancelled", "FAILED"),
    ],
)
def test_sync_derives_a_plans_status_from_all_its_jobs(
    training_ends: str, evaluation_ends: str | None, status: str, store: Tracking, tmp_path: Path
) -> None:
    planned = made(tmp_path)
    job, evaluation = planned.jobs
    folder = begun(planned, job)
    publisher = publisher_of(planned, store)
    publisher.open([job])
    publisher.begin(job)
    end(folder, training_ends, "said so")
    if evaluation_ends is not None:
        end(begun(planned, evaluation), evaluation_ends, "said so")
    assert Sync(tmp_path, store).once() == 0
    found = runs(store)
    assert found["plan"].status == status
    assert found["train"].status == ENDED[training_ends]


def test_a_report_is_made_again_only_where_something_has_changed(
    store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = made(tmp_path)
    end(begun(planned, training(planned)), "failed", "said so")
    concluded: list[str] = []
    conclude = runner.conclude

    def counted(*arguments: Any, **options: Any) -> Any:
        concluded.append(arguments[5])
        return conclude(*arguments, **options)

    monkeypatch.setattr(runner, "conclude", counted)
    sync = Sync(tmp_path, store)
    for _ in range(2):
        sync.once()
    assert concluded == ["FAILED"]
    finished(planned)
    for _ in range(2):
        sync.once()
    assert concluded == ["FAILED", "FINISHED"]


def test_a_plan_that_nobody_began_is_no_run(store: Tracking, tmp_path: Path) -> None:
    made(tmp_path)
    Sync(tmp_path, store).once()
    assert runs(store) == {}
    assert not (tmp_path / "reports").exists()


def test_a_plan_that_was_opened_and_not_begun_was_killed(store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    publisher_of(planned, store).open(planned.jobs)
    Sync(tmp_path, store).once()
    assert {role: run.status for role, run in runs(store).items()} == {"plan": "KILLED"}


def test_sync_leaves_what_is_at_work_running_and_tells_it(store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    folder = begun(planned, training(planned))
    lease = Claim(folder).take()
    assert lease is not None
    sync = Sync(tmp_path, store)
    say(folder, *EVENTS[:6])
    assert sync.once() == 1
    assert steps(store, runs(store)["train"]) == [1, 2, 3, 4]
    say(folder, *EVENTS[6:])
    assert sync.once() == 1
    found = runs(store)
    assert {run.status for run in found.values()} == {"RUNNING"}
    assert steps(store, found["train"]) == list(range(1, 11))
    end(folder, "finished")
    lease.renew(released=True)
    evaluated(planned)
    assert sync.once() == 0
    assert {run.status for run in runs(store).values()} == {"FINISHED"}


def test_a_whole_store_is_rebuilt_from_the_root(store: Tracking, tmp_path: Path) -> None:
    root = tmp_path / "root"
    planned = made(root)
    finished(planned)
    Sync(root, store).once()
    other = Tracking(f"sqlite:///{tmp_path}/other.db", store.prefix)
    Sync(root, other, afresh=True).once()
    Sync(root, other, afresh=True).once()
    assert table(planned, store) == table(planned, other)
    assert table(planned, store)["experiments"][0]["rows"][0]["status"] == "done"
    assert steps(other, runs(other)["train"]) == list(range(1, 11))
    assert runs(other)["cell"].metrics == runs(store)["cell"].metrics


def table(planned: Plan, store: Tracking) -> dict[str, Any]:
    """What `report --json` prints, without the runs' ids."""
    (found,) = report_from_mlflow.look_up(planned, ("harness",), store.uri, store.prefix.rstrip("/"))
    rows = rows_json([(found.rows, found.context)])
    for row in rows["experiments"][0]["rows"]:
        for run in row["runs"]:
            assert run.pop("run_id")
    return rows


def test_a_plan_of_other_code_is_left_out_and_named(
    store: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planned = made(tmp_path)
    (path,) = (tmp_path / "plans").iterdir()
    path.rename(path.with_name("0" * 16 + ".json"))
    sync = Sync(tmp_path, store)
    sync.once()
    sync.once()
    assert len(caplog.messages) == 1
    assert "the code has changed since" in caplog.messages[0]
    assert planned.experiments[0].name in caplog.messages[0]
    assert runs(store) == {}


def test_a_store_that_is_away_at_any_moment_loses_nothing(
    store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "RETRY", 0.0)
    monkeypatch.setattr(publish, "PULSE", 0.0)
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)
    store.connect()
    publisher = publisher_of(planned, store)

    def away(*arguments: Any, **options: Any) -> Any:
        raise UnfitError("MLflow does not answer")

    with monkeypatch.context() as gone:
        for name in ("experiment", "parent", "child", "log", "tag", "resume", "finish", "json", "has"):
            gone.setattr(store, name, away)
        publisher.begin(job)
        say(folder, *EVENTS[:6])
        publisher.hear(job, events_of(EVENTS[:6]))
    say(folder, *EVENTS[6:9])
    publisher.hear(job, events_of(EVENTS[6:9]))  # it is back
    assert steps(store, runs(store)["train"]) == [1, 2, 3, 4]
    with monkeypatch.context() as gone:
        gone.setattr(store, "log", away)
        say(folder, *EVENTS[9:])
        publisher.hear(job, events_of(EVENTS[9:]))
    publisher.end(job, Outcome("finished"))
    found = runs(store)["train"]
    assert steps(store, found) == list(range(1, 11))
    assert found.status == "FINISHED"
    assert [line for line in caplog.messages if "the jobs continue" in line] == caplog.messages[::2]
    assert [line for line in caplog.messages if "answers again" in line] == caplog.messages[1::2]


def sampled(folder: Path, node: str, steps: range) -> None:
    """What a node's first rank writes of a GPU."""
    (folder / "system").mkdir(exist_ok=True)
    with (folder / "system" / f"{node}.jsonl").open("a") as file:
        for step in steps:
            values = {"gpu_0_utilization_percentage": 90 + step}
            file.write(json.dumps({"event": "sample", "time": T0 + 10 * step, "step": step, "values": values}) + "\n")


def test_gpus_of_all_nodes_are_told_once_also_after_the_store_was_away(
    store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RETRY", 0.0)
    monkeypatch.setattr(publish, "PULSE", 0.0)
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)

    def points(node: str) -> list[tuple[int, float]]:
        key = f"system/{node}/gpu_0_utilization_percentage"
        history = store.connect().get_metric_history(runs(store)["train"].run_id, key)
        return [(point.step, point.value) for point in history]

    def away(*arguments: Any, **options: Any) -> Any:
        raise UnfitError("MLflow does not answer")

    publisher = publisher_of(planned, store)
    publisher.begin(job)
    for node in ("first", "second"):
        sampled(folder, node, range(2))
    publisher.hear(job, [])
    assert points("first") == points("second") == [(0, 90.0), (1, 91.0)]
    sampled(folder, "second", range(2, 4))
    with monkeypatch.context() as gone:
        gone.setattr(store, "log", away)
        publisher.hear(job, [])
    again = publisher_of(planned, store)  # the next attempt's
    again.begin(job)
    again.end(job, Outcome("finished"))
    publisher.hear(job, [])
    assert points("second") == [(step, 90.0 + step) for step in range(4)]
    assert len(points("first")) == 2


def test_a_resume_tells_what_is_new_in_pieces(store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "POINTS", 3)
    monkeypatch.setattr(training_run, "BYTES", 300)
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)
    logged: list[int] = []
    log = store.log
    monkeypatch.setattr(store, "log", lambda run, points: log(run, (logged.append(len(points)), points)[1]))

    def gpu() -> list[int]:
        key = "system/node/gpu_0_utilization_percentage"
        return [point.step for point in store.connect().get_metric_history(runs(store)["train"].run_id, key)]

    say(folder, *EVENTS[:6])
    sampled(folder, "node", range(10))
    first = publisher_of(planned, store)
    first.begin(job)
    assert logged == [3, 3], "the launch is not kept waiting"
    first.end(job, Outcome("preempted"))
    assert steps(store, runs(store)["train"]) == [1, 2, 3, 4]
    assert gpu() == list(range(10))
    logged.clear()
    say(folder, *EVENTS[6:])
    sampled(folder, "node", range(10, 12))
    second = publisher_of(planned, store)
    second.begin(job)
    second.end(job, Outcome("finished"))
    assert sum(logged) == 2 * 6 + 2
    assert steps(store, runs(store)["train"]) == list(range(1, 11))
    assert gpu() == list(range(12))
    logged.clear()
    again = Publisher(planned, Store(store, tmp_path), afresh=True)
    again.begin(job)
    again.drain(job)
    assert sum(logged) == 2 * 10 + 12


def test_a_damaged_note_is_none(store: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planned = made(tmp_path)
    job = training(planned)
    folder = begun(planned, job)
    say(folder, *EVENTS)
    publisher_of(planned, store).begin(job)
    (folder / "mlflow.json").write_text("{")
    publisher_of(planned, store).begin(job)
    assert caplog.messages == []
    assert steps(store, runs(store)["train"]) == list(range(1, 11))


def test_gpus_of_an_evaluation_are_with_its_numbers(store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    finished(planned)
    (cell,) = (job for job in planned.jobs if not isinstance(job, Train))
    sampled(planned.directory(cell), "node", range(3))
    publisher_of(planned, store).catch_up(planned.experiments[0])
    assert runs(store)["cell"].metrics["system/node/gpu_0_utilization_percentage"] == 92


def test_a_plans_run_that_has_ended_says_nothing_of_live_work(store: Tracking, tmp_path: Path) -> None:
    planned = made(tmp_path)
    evaluation = planned.jobs[-1]
    assert not isinstance(evaluation, Train)
    publisher = publisher_of(planned, store)
    publisher.open([evaluation])
    begun(planned, evaluation)
    publisher.begin(evaluation)
    publisher.hear(evaluation, events_of(EVENTS[:6]))
    running = runs(store)["plan"].tags
    assert running["live"] == evaluation.name
    assert "step" in running
    publisher.close(planned.experiments[0], "FINISHED")
    ended = runs(store)["plan"]
    assert ended.status == "FINISHED"
    assert not {"live", "step", "loss", "eta_seconds", "heartbeat"} & set(ended.tags)
