"""One command warm-starts from another job: by its fingerprint, its file, and its name in MLflow."""

import json
from pathlib import Path

import one_model
import pytest
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
        assert "0 jobs executed, 2 were done already" in again.stderr, (name, again.stderr)
    several = harness(workspace, *RUN, "train.start=synthetic-upernet")  # the warm-started model is the second version
    assert several.returncode == 3
    assert "has the versions 1, 2; name one, as models:/synthetic-upernet/1" in several.stderr


def test_a_models_only_version_is_meant_by_its_name(tmp_path: Path) -> None:
    done = harness(tmp_path, "run", one_model.FILE, *one_model.TINY, "--json")
    first = training(tmp_path / "runs", done.stdout).fingerprint
    plans = [
        json.loads(harness(tmp_path, "plan", one_model.FILE, *one_model.TINY, f"train.start={name}", "--json").stdout)
        for name in (first, "synthetic-upernet", "models:/synthetic-upernet@best")
    ]
    assert len({json.dumps([job["fingerprint"] for job in plan["jobs"]]) for plan in plans}) == 1
    assert first not in json.dumps(plans[0]["jobs"])


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
