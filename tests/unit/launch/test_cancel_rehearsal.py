"""A rehearsal is ended: here, by whomever, and in Slurm before and after its start."""

import threading
from pathlib import Path

import in_process
import one_model
import pytest
from cancelling import Later, Slow
from simulated_slurm import SimulatedSlurm

from harness.common.locks import us
from harness.common.progress import SILENT
from harness.common.signals import Stopped, stop_signals
from harness.config.settings import RunOptions
from harness.jobdir import stop_request
from harness.jobdir.stop_request import StopRequest
from harness.launch import cancel, preflight, rehearsal
from harness.launch.cancel import RehearsalCanceller
from harness.launch.launchers import _sbatch
from harness.plan.plan import Plan

ME = _sbatch.user()
SLURM = RunOptions(offline=True, launcher="slurm", nproc=1, slurm={"nodes": 1})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ask_child", in_process.answered)
    monkeypatch.setattr(rehearsal, "fetch", lambda config: None)
    for module in (cancel, stop_request):
        monkeypatch.setattr(module, "LOOK", 0.05)


def later(root: Path, condition: str) -> Later:
    """The cancellation of a root's rehearsal, once it is at work."""
    return Later(root, condition, lambda: RehearsalCanceller(root).run())


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()
    monkeypatch.setattr(rehearsal, "choose", lambda plan, options: (slow, {"launcher": "inline", "nproc": 1}))
    return slow


def test_one_at_work_here_ends_as_at_ctrl_c(launcher: Slow, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = one_model.made(tmp_path)
    asking = later(tmp_path, "rehearsal/jobs/*/how.json")
    asking.start()
    with pytest.raises(Stopped) as stop, stop_signals():
        rehearsal.rehearse(made, RunOptions(offline=True), SILENT)
    asking.join()
    assert (stop.value.status, launcher.signals) == ("cancelled", [2])
    assert [(result.state, result.slurm) for result in asking.results] == [("stopped", None)]
    assert f"the dry run in {tmp_path}/rehearsal: {us()} was asked to end" in caplog.messages
    assert RehearsalCanceller(tmp_path).run() == []


def test_where_none_is_at_work_nothing_is_written(tmp_path: Path) -> None:
    assert RehearsalCanceller(tmp_path).run() == []
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_write_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: StopRequest, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(StopRequest, "write", forbidden)
    with rehearsal.alone(tmp_path):
        (result,) = RehearsalCanceller(tmp_path).run()
    assert result.state == "left"
    assert result.reason.endswith(f"may not ask it to end ({tmp_path}/.rehearsal.stop: Permission denied)")


def test_one_that_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "GRACE", 0.1)
    monkeypatch.setattr(cancel, "MARGIN", 0.1)
    with rehearsal.alone(tmp_path):
        (result,) = RehearsalCanceller(tmp_path).run()
    assert (result.state, result.reason) == ("left", f"{us()} was asked to end, but has not within 0 s")


# --- in Slurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedSlurm:
    return SimulatedSlurm.installed(tmp_path / "slurm", ME, monkeypatch)


@pytest.fixture
def made(tmp_path: Path, slurm: SimulatedSlurm) -> Plan:
    """A plan whose rehearsal waits as Slurm job 1."""
    planned = one_model.made(tmp_path / "runs")
    assert rehearsal.by_slurm(planned, SLURM, SILENT, detach=True) is None
    assert slurm.queued() == ["1"]
    return planned


def test_one_that_waits_leaves_the_queue(made: Plan, slurm: SimulatedSlurm) -> None:
    (result,) = RehearsalCanceller(made.root).run()
    assert (result.state, result.reason, result.slurm) == ("cancelled", "removed from Slurm's queue", "1")
    assert slurm.cancelled() == f"--user={ME} --name=harness dry run of one_model 1\n"
    slurm.end("1")
    assert RehearsalCanceller(made.root).run() == []
    rehearsal.by_slurm(made, SLURM, SILENT, detach=True)
    assert slurm.queued() == ["2"], "the same command starts it again"


def test_who_waits_for_it_ends_too(made: Plan, slurm: SimulatedSlurm) -> None:
    asking = later(made.root, "slurm/rehearsal.json")
    threading.Timer(0.5, asking.start).start()
    with pytest.raises(Stopped) as stop, stop_signals():
        rehearsal.by_slurm(made, SLURM, SILENT)
    asking.join()  # else it would reach into the next test's queue
    assert stop.value.status == "cancelled"
    assert [result.state for result in asking.results] == ["cancelled"]
    assert slurm.queued() == ["1"]


@pytest.mark.parametrize("moment", ["before its start", "at work"])
def test_one_that_has_begun_ends_for_good(
    moment: str, made: Plan, slurm: SimulatedSlurm, launcher: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    task = rehearsal.task(made, SLURM)
    if moment == "before its start":  # by somebody whose scancel does not reach it
        StopRequest(user="ben").write(made.output.rehearsal_stop)
    slurm.put("1", ME, "harness dry run of one_model")
    asking = later(made.root, "rehearsal/jobs/*/how.json")
    if moment == "at work":
        asking.start()
    with pytest.raises(SystemExit) as ended:
        task()
    slurm.end("1")
    assert ended.value.code == 75
    assert slurm.cancelled() == ""
    if moment == "at work":
        asking.join()
        assert [(result.state, result.slurm) for result in asking.results] == [("stopped", "1")]


def test_anothers_that_waits_is_left_and_ends_at_its_start(made: Plan, slurm: SimulatedSlurm) -> None:
    file = made.output.rehearsal_file
    file.write_text(file.read_text().replace(f'"{ME}"', '"anna"'))
    slurm.put("1", "anna", "harness dry run of one_model", "PENDING")
    (result,) = RehearsalCanceller(made.root).run()
    assert result.state == "left"
    assert result.reason == "waiting as Slurm job 1 of anna on simulated; it will end within seconds of its start"
    assert slurm.cancelled() == ""
    assert StopRequest.read(made.output.rehearsal_stop) is not None
