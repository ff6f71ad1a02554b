"""One command warm-starts from another job: by its fingerprint, its file, and its name in MLflow."""

import json
from pathlib import Path

import one_model
import pytest
from command_line import all_runs
from in_process import harness

from harness.plan.spec import TrainSpec, read_as

pytestmark = pytest.mark.long
RUN = ("run", one_model.FILE, *one_model.TINY, "--json")


def training(root: Path, done: str) -> TrainSpec:
    """The training of a run's only row."""
    (experiment,) = json.loads(done)["experiments"]
    folders = [path for path in sorted((root / "jobs").iterdir()) if (path / "weights.safetensors").is_file()]
    jobs = [read_as(path, TrainSpec) for path in folders]
    members = {
        json.loads((root / "jobs" / run / "job.yaml").read_text())["members"][0] for run in fingerprints(experiment)
    }
    (job,) = [job for job in jobs if job.fingerprint in members]
    return job


def fingerprints(experiment: dict) -> list[str]:
    return [run["fingerprint"] for row in experiment["rows"] for run in row["runs"]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm")
    done = harness(folder, *RUN)
    assert done.returncode == 0, done.stderr
    (folder / "first").write_text(training(folder / "runs", done.stdout).fingerprint)
    return folder


def test_one_command_warm_starts_from_another_job(workspace: Path) -> None:
    first = (workspace / "first").read_text()
    done = harness(workspace, *RUN, f"train.start={first}")
    assert done.returncode == 0, done.stderr
    assert f"warm start from {workspace}/runs/jobs/{first}/weights.safetensors" in done.stderr
    job = training(workspace / "runs", done.stdout)
    (digest,) = job.identity["start"]["content"].values()
    assert digest == (workspace / "runs" / "jobs" / first / "weights.sha256").read_text()
    names = (f"runs/jobs/{first}", f"runs/jobs/{first}/weights.safetensors", "models:/synthetic-upernet/1")
    for name in names:
        again = harness(workspace, *RUN, f"train.start={name}")
        assert "0 jobs executed, 2 already done" in again.stderr, (name, again.stderr)
    several = harness(workspace, *RUN, "train.start=synthetic-upernet")  # the warm-started model is the second version
    assert several.returncode == 3
    assert "has versions 1, 2; choose one, such as models:/synthetic-upernet/1" in several.stderr


def test_a_models_only_version_is_meant_by_its_name(tmp_path: Path) -> None:
    done = harness(tmp_path, "run", one_model.FILE, *one_model.TINY, "--json")
    first = training(tmp_path / "runs", done.stdout).fingerprint
    plans = [
        json.loads(harness(tmp_path, "plan", one_model.FILE, *one_model.TINY, f"train.start={name}", "--json").stdout)
        for name in (first, "synthetic-upernet", "models:/synthetic-upernet@best")
    ]
    assert len({json.dumps([job["fingerprint"] for job in plan["jobs"]]) for plan in plans}) == 1
    assert first not in json.dumps(plans[0]["jobs"])


def test_every_key_of_training_at_once_runs_and_is_told(tmp_path: Path) -> None:
    words = [
        *("data.hold_out=0.5", "train.evaluate_every=1", "train.keep=best", "train.patience=9", "train.ema=0.9"),
        *("train.freeze=encoder:1", "train.class_weights=frequency", "train.ohem=0.9", "train.dice=0.5"),
        *("train.lovasz=0.5", "train.log_every=1"),
    ]
    done = harness(tmp_path, *RUN, *words)
    assert done.returncode == 0, done.stderr
    assert "class weights by frequency: from " in done.stderr
    assert "best on dev: " in done.stderr
    (run,) = all_runs(tmp_path, "tags.`harness.role` = 'train'")
    assert {"train/dice", "train/lovasz", "train/loss_main", "dev/miou"} <= run.data.metrics.keys()
    assert run.data.params["options"] == "freeze, ema, keep, patience, class_weights, ohem, dice, lovasz"
    again = harness(tmp_path, *RUN, *words)
    assert "0 jobs executed, 2 already done" in again.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["train.class_weights=often"], "must be frequency, or a list of positive numbers"),
        (["train.class_weights=[1,-1]"], "must be frequency, or a list of positive numbers"),
        (["train.class_weights=[1,2]"], "has 2 numbers, the data has"),
        (["train.ohem=1.5"], "must be in (0, 1]"),
        (["train.dice=0"], "must be a finite number, above 0"),
        (["train.lovasz=-1"], "must be a finite number, above 0"),
        (["train.freeze=enc"], "no parameter of this model matches"),
        (["train.keep=best"], "never val"),
    ],
)
def test_wrong_values_are_refused_in_a_line_before_the_run(tmp_path: Path, words: list[str], reason: str) -> None:
    done = harness(tmp_path, *RUN, *words, "--offline")
    assert done.returncode in (2, 3)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")] or done.stderr.splitlines()[-1:]
    assert reason in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("f" * 16, "has no such job"),
        ("nowhere.safetensors", "no such file, job or registered model"),
        ("synthetic-upernat", "registered are synthetic-upernet"),
        ("models:/synthetic-upernet/99", "no such file, job or registered model"),
    ],
)
def test_a_start_that_is_not_there_is_refused_in_a_line(workspace: Path, start: str, reason: str) -> None:
    done = harness(workspace, *RUN, f"train.start={start}")
    assert done.returncode == 3
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
