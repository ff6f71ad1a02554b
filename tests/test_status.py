"""What `status` says of a job, by its files and Slurm's queue; `sync` ends nothing that may still wait."""

import time
from pathlib import Path

import pytest
from one_model import begun, end, made

from harness import status
from harness.core import record
from harness.core.job import Train
from harness.launchers import _sbatch
from harness.launchers._sbatch import State
from harness.publish import Publisher
from harness.store.tracking import Tracking
from harness.sync import Sync


@pytest.fixture
def submitted(tmp_path: Path) -> Path:
    """A job that a Slurm job has, and that has not begun."""
    folder = tmp_path / "jobs" / ("a" * 16)
    folder.mkdir(parents=True)
    record.write_json(folder / "slurm.json", {"id": "7", "name": "train upernet seed 0"})
    return folder


def examined(folder: Path, queue: dict[str, State] | None) -> tuple[str, str | None]:
    found = status.examine(folder, queue, time.time())
    return found.state, found.reason


def test_what_slurm_knows_waits_and_what_it_has_forgotten_died(submitted: Path) -> None:
    assert examined(submitted, {"7": State("PENDING")}) == ("queued", None)
    assert examined(submitted, {"7": State("RUNNING")}) == ("running", None)
    assert examined(submitted, {})[0] == "died"


def test_where_slurm_cannot_be_asked_a_job_without_an_ending_waits(submitted: Path) -> None:
    assert examined(submitted, None) == ("queued", "Slurm cannot be asked here about job 7")
    end(submitted, "failed", "a bad disk")
    assert examined(submitted, None) == ("failed", "a bad disk")
    end(submitted, "lost", "the worker died")
    assert examined(submitted, None)[0] == "died"


def test_sync_where_there_is_no_slurm_closes_nothing_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = made(tmp_path)
    job = next(job for job in planned.jobs if isinstance(job, Train))
    record.write_json(begun(planned, job) / "slurm.json", {"id": "7", "name": job.name})
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    publisher = Publisher(planned, store, print)
    publisher.open([job])
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: None)
    assert Sync(tmp_path, store, print).once() == 1
    assert store.get(publisher.parent(planned.experiments[0])[1]).status == "RUNNING"
