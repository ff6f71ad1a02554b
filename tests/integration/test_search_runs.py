"""`harness search` as a person uses it: real Optuna, MLflow and workers, at the smallest size there is."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command_line import all_runs, environment, harness
from tiny_study import TINY

from experiments.searches import momentum
from harness.jobdir.lease import latest

pytestmark = pytest.mark.slow  # whole studies

SEARCH = ("search", "momentum", *TINY)


def found(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def executed(folder: Path) -> Counter[str]:
    """How often each job came to its end under a root: each `end` of its journal that says finished."""
    ends: Counter[str] = Counter()
    for path in (folder / "runs" / "jobs").glob("*/events.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        ends[path.parent.name] += sum(e["event"] == "end" and e.get("status") == "finished" for e in events)
    return ends


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a study of five trials was made by two workers."""
    folder = tmp_path_factory.mktemp("search")
    done = harness(folder, *SEARCH, "--trials", "5", "--workers", "2", "--json")
    folder.joinpath("first.json").write_text(json.dumps({**found(done), "stderr": done.stderr}))
    return folder


def first(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "first.json").read_text())
    return value


def test_two_workers_finish_exactly_as_many_trials_as_were_asked_for(workspace: Path) -> None:
    trials = first(workspace)["trials"]
    assert [trial["number"] for trial in trials] == list(range(5))
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert [trial["default"] for trial in trials] == [True, True, True, False, False]
    assert all(0 <= trial["miou"] <= 100 for trial in trials if trial["state"] == "complete")
    assert all(count <= 1 for count in executed(workspace).values())
    assert "trial 0 m=0.9 poly seed 0, the default" in first(workspace)["stderr"]
    assert "trial 1 m=0.9 poly: train decoder_a seed 1: 21/21 iterations" in first(workspace)["stderr"]


def test_the_report_is_written_with_figures_and_begins_with_the_finding(workspace: Path) -> None:
    folder = workspace / "runs" / "reports" / "search_momentum"
    names = {path.name for path in folder.iterdir()}
    assert {"report.md", "best.csv", "trials.csv", "history.png", "curve_m.png"} <= names
    assert first(workspace)["finding"].split(":")[0] in (folder / "report.md").read_text().splitlines()[0]


def test_mlflow_has_a_parent_and_a_child_for_each_trial(workspace: Path) -> None:
    runs = all_runs(workspace)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert len(children) == 5
    assert "trial-000 m=0.9 poly seed 0" in children
    for trial in first(workspace)["trials"]:
        run = next(run for name, run in children.items() if name.startswith(f"trial-{trial['number']:03d}"))
        assert run.info.status == "FINISHED"
        assert run.data.tags["outcome"] == {"complete": "finished"}.get(trial["state"], trial["state"])
        assert float(run.data.params["momentum"]) == pytest.approx(trial["params"]["decoder.decoder_a.momentum"])
        if trial["state"] == "complete":
            assert run.data.metrics["final/miou"] == pytest.approx(trial["miou"], abs=1e-3)
        assert "dev/miou" in run.data.metrics


def test_again_runs_nothing_and_tells_nothing_twice(workspace: Path) -> None:
    before = {run.info.run_id: run.data.metrics for run in all_runs(workspace)}
    again = found(harness(workspace, *SEARCH, "--trials", "5", "--json"))
    assert [trial["miou"] for trial in again["trials"]] == [trial["miou"] for trial in first(workspace)["trials"]]
    assert {run.info.run_id: run.data.metrics for run in all_runs(workspace)} == before


def test_the_report_is_made_from_the_storage_alone(workspace: Path) -> None:
    jobs, away = workspace / "runs" / "jobs", workspace / "jobs"
    jobs.rename(away)
    try:
        again = found(harness(workspace, *SEARCH, "--trials", "5", "--offline", "--json"))
        assert list(jobs.iterdir()) == []
    finally:
        shutil.rmtree(jobs)
        away.rename(jobs)
    assert again["finding"] == first(workspace)["finding"]
    assert again["trials"] == first(workspace)["trials"]


def test_a_finished_job_costs_a_study_nothing(workspace: Path) -> None:
    before = executed(workspace)
    another = found(harness(workspace, *SEARCH, "--trials", "3", "--study", "another", "--json"))  # the default's seeds
    assert executed(workspace) == before
    assert [trial["facts"]["executed"] for trial in another["trials"]] == [0, 0, 0]
    assert [trial["miou"] for trial in another["trials"]] == [t["miou"] for t in first(workspace)["trials"][:3]]
    assert all(trial["facts"]["seconds"] < 2 for trial in another["trials"][1:])


def with_pruner(folder: Path, pruner: str) -> Path:
    """The search with another pruner, as SEARCH's file has it."""
    text = Path(momentum.__file__).read_text()
    begin, end = text.index("PRUNER = "), text.index("def objective")
    path = folder / "pruned.py"
    path.write_text(f"{text[:begin]}PRUNER = {pruner}\n\n\n{text[end:]}")
    return path


def test_pruning_saves_steps_and_its_runs_are_finished(tmp_path: Path) -> None:
    search = with_pruner(tmp_path, 'Named("ThresholdPruner", {"lower": 101})')  # at the first look, all but the default
    words = ("search", str(search), *TINY, "train.epochs=30", "--trials", "6", "--workers", "2")
    trials = found(harness(tmp_path, *words, "--json"))["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3 + ["pruned"] * 3
    made, planned = (sum(trial["facts"][key] for trial in trials) for key in ("step", "steps"))
    assert planned == 6 * 210
    every = math.ceil(210 / momentum.LOOKS)
    for trial in trials[3:]:
        assert every <= trial["facts"]["step"] < 2 * every, "stopped soon after its first look"
        assert list(trial["looks"]) == ["1"]
    assert made < planned - 3 * (210 - 2 * every)
    pruned = [run for run in all_runs(tmp_path) if run.data.tags.get("outcome") == "pruned"]
    assert [run.info.status for run in pruned] == ["FINISHED"] * 3
    assert all("dev/miou" in run.data.metrics and "final/miou" not in run.data.metrics for run in pruned)
    print(f"pruning: {made} of {planned} iterations were made")


def test_two_commands_on_one_study_share_its_trials(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", *SEARCH, "--trials", "6", "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes) for _ in range(2)]
    said = [one.communicate(timeout=400) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    answers = [json.loads(out)["trials"] for out, _ in said]
    assert answers[0] == answers[1]
    assert [trial["number"] for trial in answers[0]] == list(range(6))
    assert {trial["state"] for trial in answers[0]} <= {"complete", "pruned"}
    assert all(count <= 1 for count in executed(tmp_path).values())
    assert all("trial " in errors for _, errors in said), "each has had some"
    parents = [run for run in all_runs(tmp_path) if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert len(all_runs(tmp_path)) == 1 + 6


def test_a_dry_run_says_what_is_left_and_what_it_costs(workspace: Path) -> None:
    said = harness(workspace, *SEARCH, "--trials", "7", "--dry-run").stdout
    assert "trials: 7, 5 ended, 2 to run" in said
    assert "budget: at most 2 × 21 = 42 iterations" in said
    assert "hours of work" in said
    fresh = harness(workspace, *SEARCH, "--trials", "7", "--study", "fresh", "--dry-run").stdout
    assert "GPU-hours of training, before pruning, without evaluations; finished jobs" in fresh
    assert not (workspace / "runs" / "searches" / "fresh").exists()


def test_another_preset_is_refused_in_one_line(workspace: Path) -> None:
    done = harness(workspace, *SEARCH, "train.lr=1e-4", "--trials", "5")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("harness: the study 'momentum' has a different train.train.lr")
    assert "--study momentum_demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--storage", "postgresql://me:hush@127.0.0.1:1/none"), 3, "check that it answers"),
        (("--storage", "ftp://x"), 2, "neither a file path nor one of"),
        (("--trials", "0"), 2, "--trials 0: must be at least 1"),
        (("--workers", "0"), 2, "--workers 0: must be at least 1"),
        (("--study", "a b"), 2, "a name is letters"),
        (("split=test",), 2, "trials are scored on dev or on val"),
        (("momentum",), 2, "'momentum' is not KEY=VALUE"),
        (("decoder.decoder_a.momentum=0.95",), 2, "is outside the search space"),
    ],
)
def test_mistakes_are_answered_in_one_line(words: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    done = harness(tmp_path, *SEARCH, "--offline", *words)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr


def workers_of(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "harness.search.worker" in line]


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "harness.cli", *SEARCH, "--offline", *words]
    return subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("by", ["Ctrl-C", "harness cancel"])
def test_a_study_that_is_ended_goes_on_with_the_same_command(by: str, tmp_path: Path) -> None:
    words = ("train.epochs=40", "--trials", "3", "--workers", "2")
    running = start(tmp_path, *words)
    deadline = time.monotonic() + 300
    while len({path.parent for path in tmp_path.rglob("*.pt")}) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if by == "Ctrl-C":
        running.send_signal(signal.SIGINT)
    else:
        told = harness(tmp_path, "cancel", "--study", "momentum", "--json")
        assert told.returncode == 0, told.stderr
        jobs = json.loads(told.stdout)["jobs"]
        assert [job["state"] for job in jobs] == ["stopped"] * 2
        assert all(job["name"].startswith("trial ") for job in jobs)
        assert all(job["reason"].startswith("saved at step ") for job in jobs)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 75, said
    assert "rerun the same command" in said
    assert "Traceback" not in said
    kept = {path.parent.parent.name for path in tmp_path.rglob("*.pt")}
    done = found(harness(tmp_path, *SEARCH, "--offline", *words, "--json"))
    assert [trial["state"] for trial in done["trials"]] == ["complete"] * 3
    for name in kept:  # resumed, not begun again
        events = (tmp_path / "runs" / "jobs" / name / "events.jsonl").read_text().splitlines()
        begins = [event["step"] for event in map(json.loads, events) if event["event"] == "begin"]
        assert begins[0] == 0 < begins[-1]


def kill_and_finish(folder: Path, *words: str, kills: int = 5, trials: int = 14) -> dict[str, Any]:
    """A study of two workers, of which one is killed at a random moment, so many times; its trials at the end."""
    rng = random.Random(kills)
    running = start(folder, *words, "--trials", str(trials), "--workers", "2")
    done = 0
    while done < kills:
        time.sleep(rng.uniform(4, 12))  # three deaths in which no trial comes further, and the study is given up
        assert running.poll() is None, f"the study ended after {done} kills: {running.communicate()[1]}"
        crew = workers_of(running.pid)
        if crew:
            os.kill(rng.choice(crew), signal.SIGKILL)
            done += 1
    running.communicate(timeout=900)
    return found(harness(folder, *SEARCH, "--offline", *words, "--trials", str(trials), "--json"))


def check(folder: Path, done: dict[str, Any], trials: int = 14) -> None:
    assert [trial["number"] for trial in done["trials"]] == list(range(trials))
    assert {trial["state"] for trial in done["trials"]} <= {"complete", "pruned"}
    assert all(count <= 1 for count in executed(folder).values())
    again = [latest(path) for path in (folder / "runs" / "searches" / "momentum" / "trials").iterdir()]
    print(f"5 kills: {trials} trials ended, taken up again {sum(again) - len(again)} times, no job finished twice")


def test_five_kills_on_a_journal_file_lose_and_repeat_nothing(tmp_path: Path) -> None:
    check(tmp_path, kill_and_finish(tmp_path, "train.epochs=15"))


def test_five_kills_on_postgresql_lose_and_repeat_nothing(tmp_path: Path) -> None:
    from mlflow_server import postgres

    with postgres() as url:
        check(tmp_path, kill_and_finish(tmp_path, "train.epochs=15", "--storage", url))


def test_the_best_is_confirmed_on_val_by_pairs(workspace: Path) -> None:
    done = harness(workspace, *SEARCH, "--trials", "5", "--confirm", "2")
    assert done.returncode == 0, done.stderr
    assert "Confirmed on val" in done.stdout
    assert "paired difference" in done.stdout
    assert "of 2 seeds" in done.stdout
    later = harness(workspace, *SEARCH, "--trials", "5")  # it stays with the study
    assert "Confirmed on val" in later.stdout
    table = harness(workspace, "plan", "ablation_momentum", *TINY, "--json")
    states = {job["name"]: job["state"] for job in json.loads(table.stdout)["jobs"]}
    assert "done" in states.values()  # the default is a cell of the ablation


def test_two_workers_finish_sooner_and_a_trial_costs_little_beside_its_jobs(tmp_path: Path) -> None:
    """A trial takes under 2 s beside its jobs after a worker's first; how much faster two are is printed, not asserted.

    Nothing is pruned, so that one worker and two have the same to do; each has one thread.
    """
    took = {}
    search = str(with_pruner(tmp_path, 'Named("NopPruner")'))
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        begun = time.monotonic()
        words = ("search", search, *TINY, "train.epochs=40", "--trials", "8", "--workers", str(workers), "--json")
        trials = found(harness(folder, *words))["trials"]
        took[workers] = time.monotonic() - begun
        later = [trial for trial in trials[workers:] if trial["state"] == "complete"]
        beside = sorted(trial["seconds"] - trial["facts"]["work"] for trial in later)
        print(f"{workers} worker(s): {took[workers]:.1f} s; beside its jobs a trial took {beside} s")
        assert beside
        assert beside[-1] < 2
    print(f"two workers: {took[1] / took[2]:.2f} times as fast as one")
    assert took[2] < took[1]  # a machine may be shared
