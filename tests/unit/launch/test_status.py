"""What `status` says of a job, by its files and Slurm's queue; `sync` ends nothing that may still wait."""

import time
from pathlib import Path

import pytest
from one_model import begun, end, finished, made

from harness.cli import jobs
from harness.common.atomic_files import write_json
from harness.jobdir import lease
from harness.jobdir.paths import JobDir, OutputDir
from harness.launch import status
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import State
from harness.launch.mlflow_sync import Sync
from harness.launch.slurm_queue import Queue
from harness.plan.job import Train
from harness.plan.outcome import ENDED
from harness.tracking.client import PLAN, Tracking
from harness.tracking.publisher import publisher_of


@pytest.fixture
def submitted(tmp_path: Path) -> Path:
    """A job that a Slurm job has, and that has not begun."""
    folder = tmp_path / "jobs" / ("a" * 16)
    folder.mkdir(parents=True)
    write_json(folder / "slurm.json", {"id": "7", "name": "train upernet seed 0"})
    return folder


def examined(folder: Path, queue: dict[str, State] | None) -> tuple[str, str | None]:
    files = JobDir(folder)
    submitted = files.submission()
    assert submitted is not None
    one = submitted.slurm_job
    states = {one: queue[one.id]} if queue is not None and one.id in queue else {}
    found = status.examine(files, Queue(states, frozenset([one] if queue is None else [])), time.time())
    return found.state, found.reason


def test_what_slurm_knows_waits_and_what_it_has_forgotten_died(submitted: Path) -> None:
    assert examined(submitted, {"7": State("PENDING")}) == ("queued", None)
    assert examined(submitted, {"7": State("RUNNING")}) == ("running", None)
    assert examined(submitted, {})[0] == "died"


def test_where_slurm_cannot_be_asked_a_job_without_an_ending_waits(submitted: Path) -> None:
    assert examined(submitted, None) == ("queued", "Slurm cannot be queried here about job 7")
    end(submitted, "failed", "a bad disk")
    assert examined(submitted, None) == ("failed", "a bad disk")
    end(submitted, "lost", "the worker died")
    assert examined(submitted, None)[0] == "died"


@pytest.mark.parametrize("word", sorted(ENDED))
def test_each_ending_has_its_word(word: str, submitted: Path) -> None:
    end(submitted, word, "said so")
    assert examined(submitted, {}) == ("died" if word == "lost" else word, "said so")


@pytest.mark.parametrize("name", ["job.yaml", "how.json", "outcome.json", "slurm.json"])
def test_a_damaged_file_ends_neither_status_nor_sync(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_sbatch, "queue", pytest.fail)
    whole, broken = made(tmp_path), made(tmp_path, "seed=3")
    finished(whole)
    finished(broken)
    folder = broken.directory(broken.jobs[0])
    (folder / name).write_text("{")
    found = {one.fingerprint: one for one in status.look(tmp_path)}
    assert sorted(one.state for one in found.values()) == ["damaged", *["finished"] * 3]
    assert f"{folder / name}: is damaged" in str(found[folder.name].reason)
    assert any("damaged" in line for line in status.lines(list(found.values())))
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert Sync(tmp_path, store).once() == 0
    assert [line for line in caplog.messages if line.startswith("skipped: ")] == [
        f"skipped: {found[folder.name].reason}"
    ]
    plans = store.find("one_model", [one.experiments[0].digest for one in (whole, broken)], tag=PLAN)
    assert list(plans) == [whole.experiments[0].digest]


def test_a_rehearsal_that_slurm_has_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, dict[str, State] | None] = {"queue": {"7": State("PENDING")}}
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: answers["queue"])
    assert not status.rehearsing(tmp_path)
    (tmp_path / "slurm" / "7").mkdir(parents=True)
    write_json(tmp_path / "slurm" / "rehearsal.json", {"id": "7"})
    assert status.rehearsing(tmp_path)
    answers["queue"] = None  # no Slurm here
    assert status.rehearsing(tmp_path)
    write_json(tmp_path / "slurm" / "7" / "rehearsal.json", {"lines": []})
    assert not status.rehearsing(tmp_path)
    (tmp_path / "slurm" / "7" / "rehearsal.json").unlink()
    answers["queue"] = {"7": State("FAILED")}
    assert not status.rehearsing(tmp_path)


def test_gc_leaves_a_rehearsal_alone_that_is_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rehearsal" / "plans").mkdir(parents=True)
    monkeypatch.setattr(status, "rehearsing", lambda root: "7" if root == tmp_path else None)
    jobs.gc(tmp_path, yes=True)
    assert (tmp_path / "rehearsal" / "plans").exists()
    monkeypatch.setattr(status, "rehearsing", lambda root: None)
    jobs.gc(tmp_path, yes=True)
    assert not (tmp_path / "rehearsal").exists()
    assert f"{tmp_path / 'rehearsal'}  (left by --rehearse)" in capsys.readouterr().out


def test_sync_where_there_is_no_slurm_closes_nothing_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = made(tmp_path)
    job = next(job for job in planned.jobs if isinstance(job, Train))
    write_json(begun(planned, job) / "slurm.json", {"id": "7", "name": job.name})
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    publisher = publisher_of(planned, store)
    publisher.open([job])
    monkeypatch.setattr(_sbatch, "queue", lambda numbers: None)
    assert Sync(tmp_path, store).once() == 1
    assert store.get(publisher.plan_runs["one_model"].run).status == "RUNNING"


def test_a_job_that_ended_long_ago_is_not_examined_one_that_is_held_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, held = made(tmp_path), made(tmp_path, "seed=3")
    for plan in (ended, held):
        finished(plan)
    job = held.jobs[0]
    claim = lease.Claim(held.directory(job)).take()
    assert claim is not None
    examined_jobs: list[str] = []
    examine = status.examine

    def noted(files: JobDir, queue: Queue, now: float) -> status.Status:
        examined_jobs.append(files.name)
        return examine(files, queue, now)

    monkeypatch.setattr(status, "examine", noted)
    tomorrow = time.time() + status.RECENT + 60
    (shown,) = status.look(tmp_path, now=tomorrow)
    assert (shown.fingerprint, shown.state) == (job.fingerprint, "running")
    assert examined_jobs == [job.fingerprint]
    claim.renew(released=True)
    assert status.look(tmp_path, now=tomorrow) == []
    assert len(status.look(tmp_path, everything=True, now=tomorrow)) == len({*ended.jobs, *held.jobs})


def test_what_goes_while_it_is_listed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path)
    finished(whole)
    (whole.directory(whole.jobs[0]) / ".outcome.json.tmp").symlink_to("renamed by now")
    removed = tmp_path / "jobs" / ("f" * 16)
    job_dirs = OutputDir.job_dirs
    monkeypatch.setattr(OutputDir, "job_dirs", lambda self: iter([*job_dirs(self), JobDir(removed)]))
    assert {job.state for job in status.look(tmp_path)} == {"finished"}
