"""A study is ended: its commands and their workers here, its workers in Slurm, whoever they belong to."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import searches
from cancelling import Later
from simulated_slurm import SimulatedSlurm

from harness import cli
from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UsageError
from harness.common.progress import Progress
from harness.common.signals import Stopped, stop_signals
from harness.jobdir import lease, stop_request
from harness.jobdir.stop_request import StopRequest
from harness.launch import cancel, runner
from harness.launch.launchers import _sbatch
from harness.search import command as search
from harness.search import slurm_workers
from harness.search.cancel import StudyCanceller
from harness.search.request import Request

ME = _sbatch.user()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ask_networks", lambda plan, options, jobs: lambda: None)
    for module in (cancel, stop_request):
        monkeypatch.setattr(module, "LOOK", 0.05)


def later(root: Path, condition: str) -> Later:
    """The cancellation of a study, once it is at work."""
    return Later(root, condition, lambda: StudyCanceller(root, "momentum").run())


def endless(after: Callable[[Path], None] = lambda folder: None) -> Callable[[Request, int, Progress], None]:
    """In place of `search.work`: a worker with one trial that would go on for ever."""

    def work(asked: Request, index: int, progress: Progress) -> None:
        made = asked.make()
        keeper = search.Keeper(made, search.Storage(asked.storage, asked.folder(made.name)))
        live = keeper.take(asked.total)
        assert live is not None
        plan = made.plan(live.params, live.seed, Path(asked.root))
        job = plan.directory(plan.jobs[0])
        held = lease.Claim(job).take()
        assert held is not None
        with lease.heartbeat([live.lease, held], every=0.1):
            (job / "checkpoints").mkdir(parents=True)
            (job / "checkpoints" / "step-00000007.pt").touch()
            after(job)
            time.sleep(120)

    return work


def test_one_at_work_here_ends_as_at_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "work", endless())
    asked = searches.request(tmp_path)
    asking = later(tmp_path / "runs", "jobs/*/checkpoints/*.pt")
    asking.start()
    with pytest.raises(Stopped) as stop, stop_signals():
        search.run(asked, 1, Progress())
    asking.join()
    assert stop.value.status == "cancelled"
    (result,) = asking.results
    assert (result.name, result.state, result.reason) == ("trial 0 of momentum", "stopped", "saved at step 7")
    assert (tmp_path / "runs" / "jobs" / result.fingerprint / "checkpoints").is_dir()

    monkeypatch.setattr(search, "work", searches.trials_end)  # a request of before is none
    assert [trial.state for trial in search.run(asked, 1, Progress()).trials] == ["failed"] * 3


def test_a_colleague_s_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their command obeys whoever may write there."""
    monkeypatch.setattr(search, "work", endless())
    file = searches.request(tmp_path).study_dir().stop_file

    def ask() -> None:
        while not list(tmp_path.rglob("*.pt")):
            time.sleep(0.05)
        StopRequest(user="ben").write(file)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Stopped), stop_signals():
        search.run(searches.request(tmp_path), 1, Progress())


def test_a_study_that_nobody_is_at_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    with pytest.raises(UsageError, match=r"--study momentum: no study of that name in .*searches; there is none"):
        StudyCanceller(root, "momentum")
    (root / "searches" / "momentum").mkdir(parents=True)
    assert cli.main(["cancel", "--study", "momentun", "--root", str(root)]) == 2
    assert "no study of that name in" in (told := capsys.readouterr().err)
    assert "there are momentum" in told
    assert cli.main(["cancel", "--study", "momentum", "--root", str(root)]) == 0
    assert "no trial of 'momentum' is running in" in capsys.readouterr().err
    assert cli.main(["cancel", "one_model", "--study", "momentum", "--root", str(root)]) == 2
    assert "name experiments, or give --study NAME, or --rehearse: one of them" in capsys.readouterr().err
    assert cli.main(["cancel", "--rehearse", "--preset", "paper", "--root", str(root)]) == 2
    assert "--study and --rehearse accept only --root" in capsys.readouterr().err
    (root / "jobs").mkdir()
    assert cli.main(["cancel", "--study", "../jobs", "--root", str(root)]) == 2
    assert not list((root / "jobs").iterdir())
    capsys.readouterr()
    assert cli.main(["cancel", "--root", str(root)]) == 2
    assert "name an experiment" in capsys.readouterr().err


def test_who_may_not_write_is_told_whom_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    held = lease.Claim(root / "searches" / "momentum" / "trials" / "003").take()
    assert held is not None

    def forbidden(self: StopRequest, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(StopRequest, "write", forbidden)
    (result,) = StudyCanceller(root, "momentum").run()
    assert (result.name, result.state) == ("trial 3 of momentum", "left")
    assert result.reason.endswith(f"stop.json: Permission denied); ask {held.holder.user}")


def test_one_that_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "GRACE", 0.1)
    monkeypatch.setattr(cancel, "MARGIN", 0.1)
    root = tmp_path / "runs"
    assert lease.Claim(root / "searches" / "momentum" / "trials" / "003").take() is not None
    (result,) = StudyCanceller(root, "momentum").run()
    assert result.state == "left"
    assert "was asked to end, but has not within 0 s" in result.reason
    assert cli.main(["cancel", "--study", "momentum", "--root", str(root), "--json"]) == 1


# --- in Slurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedSlurm:
    return SimulatedSlurm.installed(tmp_path / "slurm", ME, monkeypatch)


def submitted(folder: Path, workers: int) -> list[Any]:
    """The tasks of so many workers, which wait in the queue."""
    asked = slurm_workers.with_sbatch(searches.request(folder, launcher="slurm", nproc=1), ())
    storage = search.Storage(f"sqlite:///{folder}/study.db", asked.folder("momentum"))
    storage.folder.mkdir(parents=True, exist_ok=True)
    before = StopRequest.read(asked.study_dir().stop_file)
    slurm_workers.submit(asked, workers, "momentum", storage, before)
    return [slurm_workers.task(asked, before) for _ in range(workers)]


def test_workers_that_wait_leave_the_queue(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    submitted(tmp_path, 2)
    results = StudyCanceller(tmp_path / "runs", "momentum").run()
    assert [(result.name, result.state, result.slurm) for result in results] == [
        ("a worker of momentum", "cancelled", "1"),
        ("a worker of momentum", "cancelled", "2"),
    ]
    assert slurm.cancelled().splitlines() == [f"--user={ME} --name=harness search momentum {n}" for n in (1, 2)]


@pytest.mark.parametrize("moment", ["before its start", "at work"])
def test_a_worker_that_has_begun_ends_for_good(
    moment: str, slurm: SimulatedSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = submitted(tmp_path, 1)
    monkeypatch.setattr(search, "work", endless())
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv(slurm_workers.URL, f"sqlite:///{tmp_path}/study.db")
    slurm.put("1", ME, "harness search momentum")
    asking = later(tmp_path / "runs", "searches" if moment == "before its start" else "jobs/*/checkpoints/*.pt")
    asking.start()
    while moment == "before its start" and not list(tmp_path.rglob("stop.json")):
        time.sleep(0.02)
    with pytest.raises(SystemExit) as ended:
        task()
    slurm.end("1")
    asking.join()
    assert ended.value.code == 75, "Slurm does not run it again"
    assert slurm.cancelled() == ""
    states = [(result.name, result.state, result.reason) for result in asking.results]
    assert states == ([] if moment == "before its start" else [("trial 0 of momentum", "stopped", "saved at step 7")])

    (again,) = submitted(tmp_path, 1)  # by a command of later: a request of before is none
    monkeypatch.setattr(search, "work", searches.trials_end)
    again()


@pytest.mark.parametrize("kind", ["a colleague's", "silent"])
def test_workers_that_cannot_be_taken_out_end_at_their_start(kind: str, slurm: SimulatedSlurm, tmp_path: Path) -> None:
    submitted(tmp_path, 1)
    file = tmp_path / "runs" / "searches" / "momentum" / "slurm.json"
    if kind == "silent":
        (slurm.folder / "bin" / "squeue").write_text("#!/bin/bash\nexit 1\n")
    else:
        content = read_json(file)
        write_json(file, {"jobs": [{**job, "user": "anna"} for job in content["jobs"]]})
        slurm.put("1", "anna", "harness search momentum", "PENDING")
    (result,) = StudyCanceller(tmp_path / "runs", "momentum").run()
    assert (result.state, result.slurm) == ("left", "1")
    assert "will end within seconds of its start" in result.reason
    assert slurm.cancelled() == ""
    assert file.with_name("stop.json").exists()
