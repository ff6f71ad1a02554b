"""What `harness search` does around its trials: where a study is kept, what is refused, what MLflow is left with."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from searches import raising, request, trials_end
from tiny_study import TINY

from harness.cli import search as command
from harness.common import machine
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import Progress
from harness.config.compose import compose
from harness.launch import runner
from harness.plan import cost
from harness.plan import study as studies
from harness.results.table import Report
from harness.search import command as search
from harness.search import confirm, worker
from harness.search.backend import Storage
from harness.search.command import Done
from harness.search.request import Request
from harness.search.storage import Keeper


def test_weights_are_fetched_once_before_any_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(runner, "fetch", lambda config: order.append("fetch"))
    monkeypatch.setattr(search.local_workers, "share", lambda workers, nproc: [{}] * workers)

    def run(*arguments: object) -> None:
        order.append("crew")
        trials_end(request(tmp_path), 0, Progress())

    monkeypatch.setattr(search.local_workers, "run", run)
    search.run(request(tmp_path), 3, Progress())
    search.run(request(tmp_path), 3, Progress())  # nothing is left
    assert order == ["fetch", "crew"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"root": "runs"}, {"root": "{here}/runs"}),
        ({}, {"storage": "{here}/runs/searches/momentum/study.journal"}),
        ({"storage": "other.journal"}, {"storage": "{here}/other.journal"}),
        ({"storage": "sqlite:///own.db"}, {"storage": "sqlite:///{here}/own.db"}),
    ],
)
def test_a_place_may_be_spelt_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, str], second: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    places = set()
    for given in (first, second, first):
        asked = request(tmp_path, **{key: value.format(here=tmp_path) for key, value in given.items()})
        places.add(search.settled(asked, asked.make()).address)
    assert len(places) == 1


def test_a_root_that_was_moved_is_the_same_study(tmp_path: Path) -> None:
    asked = request(tmp_path)
    search.settled(asked, asked.make())
    note = tmp_path / "runs" / "searches" / "momentum" / "storage"
    assert note.read_text() == "study.journal"
    (tmp_path / "runs").rename(tmp_path / "moved")
    asked = request(tmp_path, root=str(tmp_path / "moved"))
    search.settled(asked, asked.make())


def test_another_place_is_refused_also_by_a_dry_run(tmp_path: Path) -> None:
    asked = request(tmp_path, storage=str(tmp_path / "first.journal"))
    search.settled(asked, asked.make())
    for other in (request(tmp_path), request(tmp_path, storage=str(tmp_path / "second.journal"))):
        with pytest.raises(UsageError, match=r"was started in .*first\.journal: give --storage again"):
            search.settled(other, other.make())
        with pytest.raises(UsageError, match=r"was started in .*first\.journal"):
            search.dry(other, 1)


@pytest.mark.parametrize("storage", [None, "sqlite:///{here}/own.db", "{here}/own.journal"])
def test_a_dry_run_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str | None) -> None:
    monkeypatch.setattr(cost, "count", lambda plan: {})
    lines = search.dry(request(tmp_path, storage=storage and storage.format(here=tmp_path)), 1)
    assert any("3, 0 ended, 3 to run" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_makes_nothing_beside_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/own.db"
    asked = request(tmp_path, storage=url)
    Keeper(asked.make(), Storage(url, tmp_path / "elsewhere"))
    before = sorted(tmp_path.rglob("*")), (tmp_path / "own.db").read_bytes()
    monkeypatch.setattr(cost, "count", lambda plan: {})
    search.dry(replace(asked, study="another"), 1)
    with pytest.raises(UsageError, match="belongs to another output directory"):
        search.dry(asked, 1)
    assert (sorted(tmp_path.rglob("*")), (tmp_path / "own.db").read_bytes()) == before


def test_a_dry_run_of_a_fresh_study_has_a_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(tmp_path)

    def counted(plan: Any) -> dict[str, dict[str, float]]:
        return {job.fingerprint: {"flops": 1e15, "parameters": 1e6} for job in plan.jobs}

    monkeypatch.setattr(cost, "count", counted)
    hours = 3 * asked.make().iterations * 1e15 / 1e14 / 3600
    told = f"  cost: {hours:.2f} GPU-hours of training, before pruning, without evaluations; counted, at 100 TFLOP/s"
    assert search.dry(asked, 1)[-1].startswith(told)
    monkeypatch.setattr(cost, "count", raising(UnfitError("FLOPs could not be counted: no torch")))
    assert search.dry(asked, 1)[-1] == "  cost: unknown: FLOPs could not be counted: no torch"


def test_more_workers_than_cores_are_refused_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    with pytest.raises(UsageError, match=r"--workers 99: 99 workers on 4 core\(s\) and no GPU; at most 4 fit"):
        search.local_workers.share(99, None)
    with pytest.raises(UsageError, match=r"--workers 3: 3 × 2 processes on 4 core\(s\) and no GPU; at most 2 fit"):
        search.local_workers.share(3, 2)
    assert len(search.local_workers.share(4, 1)) == 4


def test_how_jobs_run_goes_through(tmp_path: Path) -> None:
    asked = request(tmp_path, stall=3.5, deterministic=True, nproc=2, launcher="torchrun")
    heard = Request.from_json(json.loads(json.dumps(asdict(asked))))  # as a worker does
    assert replace(heard.options, command=asked.options.command) == asked.options


def test_harness_yaml_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harness.yaml").write_text("stall: 3.5\ndeterministic: true\n")
    heard: list[Request] = []
    monkeypatch.setattr(search, "dry", lambda asked, workers: heard.append(asked) or [])
    command.search("momentum", dry_run=True)
    assert (heard[0].options.stall, heard[0].options.deterministic) == (3.5, True)


def test_a_confirmation_that_failed_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(tmp_path)
    search.settled(asked, asked.make())
    made = asked.make()
    trial = studies.Trial(3, "complete", {**made.default, "decoder.decoder_a.momentum": 0.1}, 41.0)
    job = made.job(made.default, 0)
    ran = runner.Results((), 1, 0, 0, {job: "the loss is not finite"}, "", None)
    monkeypatch.setattr(confirm, "run", lambda *a, **k: (None, ran))
    done = Done(made, [trial], Report("title", {}), tmp_path, "")
    finished = search.confirmed(asked, done, 2, Progress())
    assert finished.failures == {job.name: "the loss is not finite"}
    with pytest.raises(typer.Exit) as left:
        command.show(finished, as_json=True)
    assert left.value.exit_code == 1


def test_a_storage_away_is_no_traceback_from_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    keeper = Keeper(studies.make("momentum", compose("demo", TINY), tmp_path), Storage(None, tmp_path))
    monkeypatch.setattr(optuna.Study, "get_trials", raising(OSError(5, "Input/output error")))
    with pytest.raises(UnfitError, match="check that it answers"):
        keeper.importance()


def test_a_full_disk_is_a_workers_last_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io
    import json
    import sys

    monkeypatch.setattr(worker, "stop_with_parent", lambda: None)
    monkeypatch.setattr(search, "work", raising(OSError(28, "No space left on device", "runs/jobs")))
    line = json.dumps({"search": "momentum", "total": 3, "options": {}, "index": 0, "workers": 2}) + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    assert worker.main() == UnfitError.exit_code
    assert "free some space" in json.loads(capsys.readouterr().out)["error"]
