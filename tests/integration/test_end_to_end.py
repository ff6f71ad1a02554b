"""The command line as a person uses it, with the real MLflow, worker and torchrun, at the smallest size there is.

The first run, and those that signals or torchrun are about, are processes; what comes after them is asked in this one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import one_model
import pytest
from command_line import TINY, all_runs, client, environment, tiny_run
from in_process import harness
from shadows import shadow

from harness.common.atomic_files import read_json
from harness.jobdir.replay import Replay

pytestmark = pytest.mark.long

CELLS = ["upernet", "decoder_a", "decoder_b", "decoder_ab"]
LONG = ("train.epochs=4000",)  # never ends within a test


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which Table 1 was made once."""
    folder = tmp_path_factory.mktemp("workspace")
    folder.joinpath("first.json").write_text(json.dumps(tiny_run(folder)))
    return folder


def test_first_run_fills_table_1(workspace: Path):
    first = json.loads((workspace / "first.json").read_text())
    (experiment,) = first["experiments"]
    assert [row["cell"] for row in experiment["rows"]] == CELLS
    assert all(row["status"] == "done" and 0 < row["miou"] < 100 for row in experiment["rows"])
    assert experiment["comparable"] is False
    assert [row["paper_miou"] for row in experiment["rows"]] == [60.02, 61.24, 61.18, 62.12]
    assert "not the paper" in first["stderr"].splitlines()[0]
    assert "7 jobs executed" in first["stderr"]
    page, where = first["stderr"].splitlines()[-2:]
    assert page.startswith("page: ")
    assert page.endswith("index.html")
    assert where == "MLflow: harness ui"
    report = workspace / "runs" / "reports" / "ablation_ensemble"
    assert {path.name for path in report.iterdir()} >= {
        "report.md",
        "ablation_ensemble.csv",
        "ablation_ensemble.tex",
    }


def test_mlflows_default_in_the_directory_shows_the_runs(workspace: Path):
    code = (
        "import mlflow; c = mlflow.MlflowClient(); e = c.get_experiment_by_name('ablation_ensemble');"
        "runs = c.search_runs([e.experiment_id]); print(sorted(r.info.run_name for r in runs))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, env=environment(), capture_output=True, text=True, check=True
    )
    for name in ("train/decoder_a/seed0", "upernet/seed0", "decoder_ab/seed0"):
        assert name in seen.stdout


def test_runs_hold_what_a_reviewer_asks_for(workspace: Path):
    runs = all_runs(workspace)
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 1 + 3 + 4  # parent, trainings, cells
    (cell,) = [run for run in runs if run.data.tags.get("harness.cell") == "decoder_a"]
    for tag in ("harness.fingerprint", "harness.preset", "device", "commit", "harness.version.torch"):
        assert cell.data.tags[tag]
    assert {"decoder", "seed", "encoder", "epochs", "momentum"} <= cell.data.params.keys()
    assert {"final/miou", "final/fwiou", "final/accuracy"} <= cell.data.metrics.keys()
    assert [dataset.dataset.name for dataset in cell.inputs.dataset_inputs] == ["synthetic-val"]
    store = client(workspace)
    files = {file.path for file in store.list_artifacts(cell.info.run_id)}
    assert {"config", "matrices.npz", "tables"} <= files
    assert {file.path for file in store.list_artifacts(parent.info.run_id, "report")} >= {"report/report.md"}
    (training,) = [run for run in runs if run.info.run_name == "train/decoder_a/seed0"]
    curve = store.get_metric_history(training.info.run_id, "train/loss")
    assert len({point.step for point in curve}) == len(curve)
    note = store.get_experiment(parent.info.experiment_id).tags["mlflow.note.content"]
    own = parent.data.tags["mlflow.note.content"]  # the run's own description: table and command
    assert own.startswith("## Table 1")
    assert re.sub(r"^## \[(.*)\]\(#/experiments/\S+\)", r"## \1", note) == own != note  # its title leads to the view


def test_models_are_registered_with_cards_and_weights(workspace: Path):
    store = client(workspace)
    known = {one.name: one for one in store.search_model_versions()}
    single = {f"synthetic-{name}" for name in ("upernet", "decoder-a", "decoder-b")}
    assert known.keys() == {*single, "synthetic-decoder-a+decoder-b"}
    place = store.get_experiment_by_name("ablation_ensemble").experiment_id
    held = {model.name: model.model_id for model in store.search_logged_models([place])}
    for name, one in known.items():
        assert one.version in (1, "1"), "telling again makes no version"
        assert "| miou |" in one.description
        assert "harness predict " in one.description
        assert "Not the paper's setting" in one.description
        files = {file.path.rpartition("/")[2] for file in store.list_logged_model_artifacts(held[name])}
        assert files == {"job.yaml", *(["MLmodel", "weights.safetensors"] if name in single else [])}
        aliases = store.get_registered_model(name).aliases
        assert str(aliases["best"]) == "1"
        assert "paper-protocol" not in aliases  # synthetic videos are not the paper's
    assert "synthetic-decoder-a (version 1)" in known["synthetic-decoder-a+decoder-b"].description


def test_second_run_executes_nothing_and_creates_nothing(workspace: Path):
    before = {run.info.run_id: run.info.end_time for run in all_runs(workspace)}
    again = tiny_run(workspace, command=harness)
    assert "0 jobs executed, 7 already done" in again["stderr"]
    assert {run.info.run_id: run.info.end_time for run in all_runs(workspace)} == before


def test_report_finds_the_same_numbers_in_mlflow_without_the_root(workspace: Path):
    done = harness(workspace, "report", "ablation_ensemble", *TINY, "--json", "--root", str(workspace / "elsewhere"))
    assert done.returncode == 0, done.stderr
    first = json.loads((workspace / "first.json").read_text())["experiments"][0]["rows"]
    found = json.loads(done.stdout)["experiments"][0]["rows"]
    for one, other in zip(first, found, strict=True):
        assert one["miou"] == pytest.approx(other["miou"], abs=1e-4)
        assert other["units"] == 3


def test_changing_one_row_runs_only_what_depends_on_it(workspace: Path):
    changed = tiny_run(workspace, "decoder.decoder_b.momentum=0.5", command=harness)
    assert "3 jobs executed, 4 already done" in changed["stderr"]  # B's training, B and A+B


def test_ctrl_c_leaves_a_checkpoint_a_true_status_and_goes_on(tmp_path: Path, mlflow_tables: Path):
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    words = ["run", "ablation_ensemble", *TINY, *LONG]
    command = [sys.executable, "-m", "harness.cli", *words]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path, "*.pt")
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 75
    assert "rerun the same command" in said
    assert "Traceback" not in said
    (training,) = all_runs(tmp_path, "tags.`harness.role` = 'train'")
    assert training.info.status == "KILLED"
    plan = harness(tmp_path, "plan", "ablation_ensemble", *TINY, *LONG, "--json")
    assert "resumable" in {job["state"] for job in json.loads(plan.stdout)["jobs"]}


def test_a_worker_killed_with_9_is_recorded_as_failed(tmp_path: Path, mlflow_tables: Path):
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    words = ["run", "ablation_ensemble", *TINY, *LONG]
    command = [sys.executable, "-m", "harness.cli", *words]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    for count in (1, 2, 3):  # each training gets a new worker, which dies as well
        wait_for(tmp_path, "events.jsonl", count)
        kill_worker(running.pid)
    _, said = running.communicate(timeout=200)
    assert running.returncode == 1, said
    assert "the worker died" in said
    trainings = all_runs(tmp_path, "tags.`harness.role` = 'train'")
    assert {run.info.status for run in trainings} == {"FAILED"}


def test_two_ranks_by_torchrun_fill_the_same_row(workspace: Path, tmp_path: Path):
    shadow(tmp_path, "file")  # a models.py of the working directory hides ours from no rank
    done = harness(tmp_path, "run", one_model.FILE, *TINY, "--nproc", "2", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["experiments"][0]["rows"]
    assert row["status"] == "done"
    upernet, *_ = json.loads((workspace / "first.json").read_text())["experiments"][0]["rows"]
    assert row["runs"][0]["fingerprint"] == upernet["runs"][0]["fingerprint"]
    jobs = {read_json(path / "job.yaml")["kind"]: path for path in tmp_path.glob("runs/jobs/*")}
    assert read_json(jobs["train"] / "outcome.json")["provenance"]["world"] == 2
    assert len(list((jobs["evaluate"] / "videos").glob("*.npz"))) == 3
    assert Replay.of(jobs["evaluate"] / "events.jsonl").attempts == 1  # one rank keeps the journal


def wait_for(folder: Path, pattern: str, count: int = 1) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.rglob(pattern))) < count:
        assert time.monotonic() < deadline, f"no {pattern} appeared"
        time.sleep(0.1)


def kill_worker(parent: int) -> None:
    """Kill the supervisor's worker."""
    deadline = time.monotonic() + 120
    while True:
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True)
        workers = [int(line.split()[0]) for line in listed.stdout.splitlines() if "harness.engine.worker" in line]
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            return
        assert time.monotonic() < deadline, "no worker was started"
        time.sleep(0.1)


def test_a_rerun_that_cannot_begin_leaves_what_is_done(workspace: Path):
    refused = harness(workspace, "run", "ablation_ensemble", *TINY, "--rerun", "upernet", "--nproc", "3")
    assert refused.returncode == 2
    assert "does not divide the micro-batch" in refused.stderr
    assert not (workspace / "runs" / "replaced").exists()
    states = json.loads(harness(workspace, "plan", "ablation_ensemble", *TINY, "--json").stdout)["jobs"]
    assert {job["state"] for job in states} == {"done"}


def test_code_changed_is_shown_marked_accepted_and_run_again(workspace: Path):
    """What a finished job ran with differs now: faked in its how.json, since no test edits the sources."""
    plan = json.loads(harness(workspace, "plan", "ablation_ensemble", *TINY, "--json").stdout)
    (training,) = [job for job in plan["jobs"] if job["name"] == "train decoder_a seed 0"]
    how = workspace / "runs" / "jobs" / training["fingerprint"] / "how.json"
    kept = json.loads(how.read_text())
    how.write_text(json.dumps({**kept, "sources": {**kept["sources"], "models/decoders/decoder_a.py": "before"}}))
    shown = harness(workspace, "plan", "ablation_ensemble", *TINY).stdout
    assert "code changed: models/decoders/decoder_a.py" in shown
    again = harness(workspace, "run", "ablation_ensemble", *TINY)
    assert "Decoder A: code changed since it ran (models/decoders/decoder_a.py)" in again.stdout
    redone = tiny_run(workspace, "--rerun", "changed", command=harness)
    assert "3 jobs executed, 4 already done" in redone["stderr"]  # its training, A, A+B
    assert len(list((workspace / "runs" / "replaced").iterdir())) == 3
    assert "code changed" not in harness(workspace, "plan", "ablation_ensemble", *TINY).stdout
    how.write_text(json.dumps({**kept, "sources": {**kept["sources"], "models/decoders/decoder_a.py": "before"}}))
    accepted = harness(workspace, "run", "ablation_ensemble", *TINY, "--accept", "changed")
    assert "accepted: train decoder_a seed 0" in accepted.stderr
    assert "code changed" not in harness(workspace, "plan", "ablation_ensemble", *TINY).stdout


def test_all_variants_need_no_training_beyond_the_second_seed(workspace: Path):
    made = tiny_run(workspace, "variants=all", "--seeds", "2", command=harness)
    rows = {row["cell"]: row for row in made["experiments"][0]["rows"]}
    assert {"upernet_a", "upernet_b", "upernet_ab", "upernet_upernet", "a_a"} <= rows.keys()
    assert all(row["status"] == "done" for row in rows.values())
    assert (rows["upernet_a"]["seeds"], rows["a_a"]["seeds"]) == (2, 1)
    trainings = [
        run for run in all_runs(workspace) if run.info.run_name in ("train/upernet/seed0", "train/upernet/seed1")
    ]
    assert len(trainings) == 2
