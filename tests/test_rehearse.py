"""A rehearsal: every job in short, with a resume; nothing of it counts, and its runs end however it does."""

import json
import subprocess
import sys
from pathlib import Path

import one_model
import pytest
from mlflow_server import WITHOUT

from harness import cli, execute, rehearse, review
from harness.core import journal
from harness.core.errors import UsageError
from harness.core.lease import Claim
from harness.core.plan import read_json
from harness.core.stopping import Stopped
from harness.store.tracking import ROLE, Tracking
from harness.sync import Sync


def statuses(store: Tracking) -> dict[str, str]:
    client = store.connect()
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return {run.data.tags[ROLE]: run.info.status for run in runs}


@pytest.mark.timeout(900)
def test_a_plan_in_three_steps_and_two_videos(tmp_path: Path) -> None:
    words = [one_model.FILE, *one_model.TINY, "data.synthetic.val_videos=3"]
    command = [sys.executable, "-m", "harness.cli", "run", *words, "--rehearse"]
    env = {**WITHOUT, "HARNESS_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    training, evaluation, *cost = done.stdout.splitlines()
    assert training.startswith("train upernet seed 0: peak ")
    assert training.endswith(" ms a step")
    assert "ms a video" in evaluation
    assert "rehearsed" in "\n".join(cost)

    jobs = {str(read_json(path)["kind"]): path.parent for path in tmp_path.glob("runs/rehearsal/jobs/*/job.yaml")}
    assert read_json(jobs["train"] / "outcome.json")["peak"] > 0
    begins = [event for event in journal.read(jobs["train"] / "events.jsonl")[0] if event["event"] == "begin"]
    assert [event["step"] for event in begins] == [0, 1], "it went on from its checkpoint"
    assert len(list((jobs["evaluate"] / "videos").iterdir())) == 2

    made = one_model.made(tmp_path / "runs", "data.synthetic.val_videos=3")
    assert [made.state(job) for job in made.jobs] == ["missing", "missing"]
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert statuses(store) == {"plan": "FINISHED", "train": "FINISHED"}
    (found,) = review.look_up(made, ("harness",), store.uri)
    assert [row["status"] for row in json.loads(found.frame.to_json(orient="records"))] == ["missing"]


class Signalled:
    """A launcher at whose start a signal comes."""

    log = Path("none.log")

    def start(self, directories: list[Path]) -> None:
        raise Stopped(15)

    def running(self) -> bool:
        return False

    def signal(self, number: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_signal_kills_its_runs_and_sync_ends_what_kill_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = one_model.made(tmp_path)
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "rehearsal")
    fetched: list[object] = []
    monkeypatch.setattr(rehearse, "choose", lambda plan, how: (Signalled(), {"launcher": "inline", "nproc": 1}))
    monkeypatch.setattr(rehearse, "fetch", lambda config, say: fetched.append(config))
    with pytest.raises(Stopped):
        rehearse.rehearse(made, execute.How(tracking_uri=store.uri), lambda progress: None, print)
    assert fetched == [made.config]
    assert statuses(store) == {"plan": "KILLED", "train": "KILLED"}
    for run in store.connect().search_runs([store.experiment("one_model")]):
        store.resume(run.info.run_id)  # as kill -9 leaves them
    assert statuses(store) == {"plan": "RUNNING", "train": "RUNNING"}
    heard: list[str] = []
    Sync(tmp_path, Tracking(store.uri), heard.append).once()
    assert statuses(store) == {"plan": "KILLED", "train": "KILLED"}
    assert len(heard) == 2


def test_none_is_begun_beside_another(tmp_path: Path) -> None:
    made = one_model.made(tmp_path)
    assert Claim(tmp_path / "rehearsal" / "jobs" / ("f" * 16)).take() is not None
    with pytest.raises(UsageError, match="a rehearsal is at work"):
        rehearse.rehearse(made, execute.How(offline=True), lambda progress: None, print)


def test_slurm_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", one_model.FILE, *one_model.TINY, "--rehearse", "--launcher", "slurm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "inside an allocation" in line
    assert list(tmp_path.iterdir()) == []
