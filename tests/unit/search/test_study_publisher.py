"""What MLflow hears of a study, on a real SQLite store: nothing lost, nothing twice, whoever died or was away when."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_model import attempt, begun, end, events_of, say
from searches import raising, request, trials_end
from tiny_study import TINY

from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import Progress
from harness.common.signals import Stopped
from harness.config import input_digests
from harness.config.compose import compose
from harness.jobdir import pruning
from harness.jobdir.paths import Outcome
from harness.plan import study as studies
from harness.plan.job import Evaluate, Train
from harness.plan.plan import Plan
from harness.plan.search_space import Named, Whole
from harness.plan.study import Study, Trial
from harness.search import command as search
from harness.search import loop
from harness.search.backend import Storage
from harness.search.request import Request
from harness.search.storage import Keeper
from harness.search.study_publisher import StudyPublisher
from harness.tracking.client import FINGERPRINT, PARENT, PLAN, SOURCE, Found, Tracking

SEED = 0
T0 = 1_800_000_000.0


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def store(database: str, request: pytest.FixtureRequest) -> Tracking:
    """A prefix a test, so that one database serves all."""
    return Tracking(database, request.node.name[:60])


def made(root: Path, *words: str, search: str = "momentum") -> Study:
    return studies.make(search, compose("demo", [*TINY, *words]), root)


def telling(root: Path, tracking: Tracking, one: Study | None = None) -> StudyPublisher:
    return StudyPublisher(one or made(root), root, tracking)


class FakeLive:
    """A trial that is held, and never pruned."""

    def __init__(self, study: Study, number: int = 0) -> None:
        self.number, self.params, self.seed = number, study.default, SEED
        self.seen: dict[int, float] = {}

    def look(self, part: int, value: float) -> bool:
        self.seen[part] = value
        return False


def trained(planned: Plan, steps: int = 21, status: str = "finished") -> None:
    """The trial's training as it leaves its directory: a look every three steps, a checkpoint at its end."""
    (job,) = (job for job in planned.jobs if isinstance(job, Train))
    folder = begun(planned, job)
    say(folder, *journal_of(steps))
    end(folder, status)


def journal_of(steps: int, total: int = 21) -> list[dict[str, Any]]:
    events = attempt(0, range(1, steps + 1), steps, T0, total)
    for event in events:
        if event["event"] == "metrics" and event["step"] % 3 == 0 and event["step"] < total:
            event["values"]["dev/miou"] = 30.0 + event["step"]
    return events


def evaluated(planned: Plan) -> None:
    (job,) = (job for job in planned.jobs if isinstance(job, Evaluate))
    folder, classes = begun(planned, job), len(input_digests.build_dataset(job.config).classes)
    (folder / "videos").mkdir()
    for video in planned.videos(job):
        np.savez(folder / "videos" / f"{video}.npz", confusion=np.full((classes, classes), 7))
    end(folder, "finished")


def planned(study: Study, root: Path) -> Plan:
    return study.plan(study.default, SEED, root)


def ended(study: Study, state: str = "complete", number: int = 0, looks: Sequence[int] = range(1, 7)) -> Trial:
    facts = {"seed": SEED, "default": True, "reason": "the loss is not finite" if state == "failed" else None}
    return Trial(number, state, study.default, 41.0, {part: 30.0 + 3 * part for part in looks}, facts)


def children(store: Tracking) -> list[Found]:
    return sorted((run for run in runs(store) if PARENT in run.tags), key=lambda run: run.name)


def runs(store: Tracking) -> list[Found]:
    client = store.connect()
    known = client.get_experiment_by_name(f"{store.prefix}search_momentum")
    return [store.get(run.info.run_id) for run in client.search_runs([known.experiment_id])] if known else []


def curve(store: Tracking, run: Found, key: str = "dev/miou") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.connect().get_metric_history(run.run_id, key)]


LOOKS = [(step, 30.0 + step) for step in range(3, 21, 3)]


def told_while_it_ran(study: Study, root: Path, tracking: Tracking) -> Plan:
    """A trial's training, told live to its end, as the worker does."""
    plan = planned(study, root)
    (job,) = (job for job in plan.jobs if isinstance(job, Train))
    teller = telling(root, tracking, study).trial(plan, FakeLive(study))  # type: ignore[arg-type]
    begun(plan, job)
    teller.begin(job)
    say(plan.directory(job), *journal_of(21))
    teller.hear(job, events_of(journal_of(21)))
    end(plan.directory(job), "finished")
    teller.end(job, Outcome("finished"))
    evaluated(plan)
    return plan


def test_final_numbers_are_told_though_the_worker_died_before_its_last_word(tmp_path: Path, store: Tracking) -> None:
    study = made(tmp_path)
    told_while_it_ran(study, tmp_path, store)
    (run,) = children(store)
    assert run.tags["outcome"] == "finished"
    assert "final/miou" not in run.metrics
    telling(tmp_path, store, study).catch_up([ended(study)])
    (run,) = children(store)
    assert "final/miou" in run.metrics
    assert SOURCE not in run.tags
    assert curve(store, run) == LOOKS


def test_a_failed_trial_is_told_once(tmp_path: Path, store: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made(tmp_path)
    trained(planned(study, tmp_path), 5, "failed")
    telling(tmp_path, store, study).catch_up([ended(study, "failed", looks=[1])])
    (run,) = children(store)
    assert (run.status, run.tags["outcome"]) == ("FAILED", "failed")
    closed: list[Trial] = []
    monkeypatch.setattr(StudyPublisher, "close", lambda self, trial: closed.append(trial))
    telling(tmp_path, store, study).catch_up([ended(study, "failed", looks=[1])])
    assert closed == []


def test_what_was_trained_offline_is_told_with_its_curve(tmp_path: Path, store: Tracking) -> None:
    study = made(tmp_path)
    plan = planned(study, tmp_path)
    trained(plan)
    evaluated(plan)
    for _ in range(2):
        telling(tmp_path, store, study).close(ended(study))
    (run,) = children(store)
    assert curve(store, run) == LOOKS
    assert [step for step, _ in curve(store, run, "train/loss")] == list(range(1, 22))
    assert SOURCE not in run.tags
    assert run.tags[FINGERPRINT] == study.job(study.default, SEED).fingerprint


def test_looks_come_from_the_storage_where_the_journal_is_gone(tmp_path: Path, store: Tracking) -> None:
    study = made(tmp_path)
    telling(tmp_path, store, study).close(ended(study, "pruned", looks=[1, 2]))
    (run,) = children(store)
    assert curve(store, run) == [(3, 33.0), (6, 36.0)]


def test_a_store_that_is_away_when_a_training_begins_hears_it_all_later(
    tmp_path: Path, store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made(tmp_path)
    plan = planned(study, tmp_path)
    (job,) = (job for job in plan.jobs if isinstance(job, Train))
    live = FakeLive(study)
    teller = telling(tmp_path, store, study).trial(plan, live)  # type: ignore[arg-type]
    begun(plan, job)
    with monkeypatch.context() as patched:
        patched.setattr(Tracking, "child", raising(UnfitError("MLflow at nowhere: child: no answer")))
        teller.begin(job)
        events = journal_of(21)
        say(plan.directory(job), *events)
        teller.hear(job, events_of(events[:10]))
    assert live.seen == {1: 33.0, 2: 36.0, 3: 39.0}, "the pruner is asked all the same"
    teller.publisher.store._next_try = 0.0
    teller.hear(job, events_of(events[10:]))
    teller.end(job, Outcome("finished"))
    (run,) = children(store)
    assert run.status == "FINISHED"
    assert curve(store, run) == LOOKS
    assert read_json(plan.directory(job) / "mlflow.json")[store.uri]["run"] == run.run_id


def test_every_key_of_the_space_is_a_trials_parameter(tmp_path: Path, store: Tracking) -> None:
    study = made(tmp_path)
    wide = replace(study, space={**study.space, "evaluate.window": Whole(16, 512)})
    telling(tmp_path, store, wide).child(3, {**wide.default, "evaluate.window": 48}, SEED)
    (run,) = children(store)
    assert run.name == "trial-003 m=0.9 poly window=48"
    assert run.params["evaluate.window"] == "48"
    assert run.params["decoder.decoder_a.momentum"] == run.params["momentum"] == "0.9"


def test_a_pruned_trial_from_its_look_to_its_run(tmp_path: Path, store: Tracking) -> None:
    """With Optuna's own pruner, which here stops whatever is below 40 %; step 7 is where the rank sees the flag."""
    study = replace(made(tmp_path), seeds=0, pruner=Named("ThresholdPruner", {"lower": 40.0, "n_warmup_steps": 2}))
    keeper = Keeper(study, Storage(None, tmp_path))
    live = keeper.take(1)
    assert live is not None
    plan = study.plan(live.params, live.seed, tmp_path)
    (job,) = (job for job in plan.jobs if isinstance(job, Train))
    folder, events = begun(plan, job), journal_of(7)
    teller = telling(tmp_path, store, study).trial(plan, live)
    teller.begin(job)
    for event in events[:5]:
        teller.hear(job, events_of([event]))
    assert not pruning.requested(folder)
    for event in events[5:]:
        teller.hear(job, events_of([event]))
    assert pruning.requested(folder)
    say(folder, *events)
    write_json(folder / "outcome.json", {"status": "pruned", "step": 7, "seconds": 1.0})
    teller.end(job, Outcome("pruned"))
    assert loop.how_it_went(plan) == ("pruned", None)
    spent = loop.spent(plan)
    assert (spent["step"], spent["steps"]) == (7, 21)
    live.tell("pruned", None, spent)
    (trial,) = keeper.trials()
    assert (trial.state, trial.value, trial.looks) == ("pruned", 36.0, {1: 33.0, 2: 36.0})
    telling(tmp_path, store, study).close(trial)
    (run,) = children(store)
    assert (run.status, run.tags["outcome"]) == ("FINISHED", "pruned")
    assert curve(store, run) == LOOKS[:2]
    assert "final/miou" not in run.metrics


def test_runs_are_made_under_the_lock_of_all_who_see_the_root(
    tmp_path: Path, store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made(tmp_path)
    one = telling(tmp_path, store, study)
    assert one.store.lock.path == tmp_path / ".mlflow.lock"
    held: list[bool] = []
    for name in ("parent", "child"):
        before = getattr(Tracking, name)
        monkeypatch.setattr(
            Tracking, name, lambda *a, before=before, **k: held.append(one.store.lock.is_locked) or before(*a, **k)
        )
    one.child(0, study.default, SEED)
    assert held == [True, True]


# --- a whole command


@pytest.fixture
def told(tmp_path: Path, database: str) -> Request:
    """A study that MLflow is told of, under a prefix of its own."""
    return request(tmp_path, offline=False, tracking_uri=database, prefix=tmp_path.name)


def parent(asked: Request) -> Found:
    """The study's run."""
    digest = asked.make().digest
    tracking = asked.tracking()
    assert tracking is not None
    return tracking.find("search_momentum", [digest], tag=PLAN, ended=False)[digest]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnfitError("3 workers died"), "FAILED"),
        (UsageError("a wrong word"), "FAILED"),
        (OSError(28, "No space left on device"), "FAILED"),
        (Stopped(2), "KILLED"),
    ],
)
def test_a_study_that_breaks_off_is_reported_and_says_so_in_mlflow(
    tmp_path: Path, told: Request, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    monkeypatch.setattr(search, "work", raising(error))
    with pytest.raises(type(error)):
        search.run(told, 1, Progress())
    folder = tmp_path / "runs" / "reports" / "search_momentum"
    assert (folder / "report.md").is_file()
    assert "every trial" in (folder / "index.html").read_text()
    assert parent(told).status == status


def test_a_study_that_goes_on_is_at_work_again_in_mlflow(told: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "work", raising(UnfitError("3 workers died")))
    with pytest.raises(UnfitError):
        search.run(told, 1, Progress())
    seen: list[str] = []

    def work(asked: Request, index: int, progress: Progress) -> None:
        seen.append(parent(asked).status)
        trials_end(asked, index, progress)

    monkeypatch.setattr(search, "work", work)
    search.run(told, 1, Progress())
    assert seen == ["RUNNING"]
    assert parent(told).status == "FINISHED"


def test_a_study_that_others_are_at_is_left_running_in_mlflow(told: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(asked: Request, index: int, progress: Progress) -> None:
        made = asked.make()
        keeper = Keeper(made, Storage(asked.storage, asked.folder(made.name)))
        assert keeper.take(4) is not None  # of a larger study, by a process that lives
        trials_end(replace(asked, total=2), index, progress)

    monkeypatch.setattr(search, "work", work)
    search.run(told, 1, Progress())
    assert parent(told).status == "RUNNING"
