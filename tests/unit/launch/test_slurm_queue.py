"""What is submitted, believed and cancelled, beside a simulated Slurm whose numbers may be anybody's."""

from functools import partial
from pathlib import Path
from typing import Any

import one_model
import pytest
from simulated_slurm import SimulatedSlurm

from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UnfitError
from harness.config import compose
from harness.config.settings import RunOptions
from harness.jobdir.paths import SlurmJob
from harness.launch import slurm_jobs, slurm_queue, slurm_submit, status
from harness.launch.launchers import _sbatch
from harness.launch.slurm_submit import Submitter
from harness.plan import plan as planning
from harness.plan.plan import Plan

OPTIONS = RunOptions(launcher="slurm", nproc=1, slurm={"nodes": 1}, offline=True, command=("harness",))
ME = _sbatch.user()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedSlurm:
    return SimulatedSlurm.installed(tmp_path / "slurm", ME, monkeypatch)


def submitter(plan: Plan, max_jobs: int | None = None) -> Submitter:
    missing = [job for job in plan.jobs if plan.state(job) != "done"]
    return Submitter(plan, missing, partial(slurm_jobs.hand_in, plan, OPTIONS), max_jobs)


def finish(plan: Plan, slurm: SimulatedSlurm) -> None:
    """Let all that is queued run to its end."""
    for number in slurm.queued():
        slurm.end(number)
    for slurm_job, jobs in slurm_submit.by_slurm_job(plan).items():
        if slurm_job.id not in slurm.queued():
            for job in jobs:
                if plan.state(job) != "done":
                    write_json(plan.jobdir(job).outcome_file, {"status": "finished", "reason": None})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_jobs_go_through_a_queue_of_eight(
    slurm: SimulatedSlurm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (slurm.folder / "limit").write_text("8")
    config = compose.compose("demo", list(one_model.TINY))
    made = planning.make([one_model.FILE], config, tmp_path / "runs", 999)
    made.output.jobs.mkdir(parents=True)
    going = submitter(made)
    assert len(going.left) == 1000
    numbers: set[str] = set()
    going.submit()
    while going.left:
        assert len(slurm.queued()) == 8
        numbers |= set(slurm.queued())
        finish(made, slurm)
        going.submit_later()
    numbers |= set(slurm.queued())
    assert numbers == {str(number) for number in range(1, 1001)}
    submitted = [job for jobs in going.waiting.values() for job in jobs]
    assert len(submitted) == len(set(submitted)) == len(made.jobs)
    assert slurm.refusals() == 124
    assert (
        "992 of 1000 Slurm jobs are still to be submitted: sbatch refused the job: sbatch: error: QOSMax"
        in caplog.messages[8]
    )


def test_no_more_of_a_plan_than_asked_are_in_the_queue(
    slurm: SimulatedSlurm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose.compose("demo", list(one_model.TINY))
    made = planning.make([one_model.FILE], config, tmp_path / "runs", 4)
    made.output.jobs.mkdir(parents=True)
    going = submitter(made, max_jobs=3)
    going.submit()
    going.submit_later()
    assert slurm.queued() == ["1", "2", "3"]
    assert caplog.messages[3:] == ["2 of 5 Slurm jobs are still to be submitted: 3 are in the queue (--max-jobs 3)"]
    finish(made, slurm)
    going.wait()
    assert slurm.queued() == ["4", "5"]
    assert slurm.refusals() == 0


def test_a_limit_of_none_is_no_reason_to_wait(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    (slurm.folder / "limit").write_text("0")
    made = one_model.made(tmp_path / "runs")
    with pytest.raises(UnfitError, match=r"QOSMaxSubmitJobPerUserLimit.*none of your jobs is in the queue"):
        submitter(made).submit()


def test_what_needs_a_job_that_failed_meanwhile_is_not_submitted(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made = one_model.made(tmp_path / "runs")
    going = submitter(made, max_jobs=1)
    going.submit()
    slurm.end("1")
    one_model.end(made.directory(made.jobs[0]), "failed", "a bad disk")
    going.wait()
    assert slurm.queued() == []
    outcome = read_json(made.directory(made.jobs[1]) / "outcome.json")
    assert (outcome["status"], outcome["reason"]) == ("cancelled", f"needs '{made.jobs[0].name}', which failed")


@pytest.fixture
def begun(slurm: SimulatedSlurm, tmp_path: Path) -> Plan:
    """A training in Slurm job 1, and an evaluation that waits for it in 2."""
    made = one_model.made(tmp_path / "runs")
    submitter(made).submit()
    return made


def states(plan: Plan) -> dict[str, str]:
    return {one.name.split()[0]: one.state for one in status.look(plan.root)}


def test_what_was_submitted_is_there_once(begun: Plan, slurm: SimulatedSlurm) -> None:
    facts = read_json(begun.jobdir(begun.jobs[0]).slurm_file)
    assert (facts["id"], facts["cluster"], facts["user"]) == ("1", "simulated", ME)
    assert facts["job_name"] == f"harness {begun.jobs[0].name}"
    assert states(begun) == {"train": "queued", "evaluate": "queued"}
    submitter(begun).submit()
    assert slurm.queued() == ["1", "2"]


@pytest.mark.parametrize(("user", "name"), [("anna", "harness train upernet seed 0"), (ME, "a big simulation")])
def test_a_number_that_is_anothers_by_now_is_not_believed(
    user: str, name: str, begun: Plan, slurm: SimulatedSlurm
) -> None:
    slurm.put("1", user, name)
    slurm.put("2", user, name)
    assert states(begun) == {"train": "died", "evaluate": "died"}
    slurm_jobs.cancel_hopeless(begun, {begun.jobs[0]: "a bad disk"})
    asked = slurm.cancelled()
    assert asked == f"--user={ME} --name=harness {begun.jobs[1].name} 2\n", "scancel compares user and name itself"
    submitter(begun).submit()
    assert slurm.queued() == ["1", "2", "3", "4"]


def test_an_old_file_without_a_name_is_believed_and_never_cancelled(begun: Plan, slurm: SimulatedSlurm) -> None:
    for job in begun.jobs:
        files = begun.jobdir(job)
        facts = read_json(files.slurm_file)
        write_json(files.slurm_file, {key: facts[key] for key in ("id", "name", "after", "log")})
    assert states(begun) == {"train": "queued", "evaluate": "queued"}
    submitter(begun).submit()
    assert slurm.queued() == ["1", "2"]
    slurm_jobs.cancel_hopeless(begun, {begun.jobs[0]: "a bad disk"})
    assert slurm.cancelled() == ""


@pytest.mark.parametrize("change", [{"cluster": "far"}, {"user": "anna"}], ids=str)
def test_what_cannot_be_asked_is_queued_and_left_to_its_owner(
    change: dict[str, str], begun: Plan, slurm: SimulatedSlurm
) -> None:
    for job in begun.jobs:
        facts = read_json(begun.jobdir(job).slurm_file)
        write_json(begun.jobdir(job).slurm_file, {**facts, "user": "anna", **change})
    for number in slurm.queued():
        slurm.end(number)
        (slurm.folder / "ended" / number).unlink()  # as Slurm answers where others' jobs are hidden
    slurm.configure(PrivateData="jobs,usage")
    found = status.look(begun.root)
    assert {one.state for one in found} == {"queued"}
    assert all("cannot be queried here about job" in str(one.reason) and "of anna" in str(one.reason) for one in found)
    going = submitter(begun)
    going.submit()
    assert slurm.queued() == []
    assert all("remove" in why for why in going.elsewhere.values())
    slurm_jobs.cancel_hopeless(begun, {begun.jobs[0]: "a bad disk"})
    assert slurm.cancelled() == ""
    slurm.configure()  # all may see all jobs: then it is gone
    if change == {"user": "anna"}:
        assert states(begun) == {"train": "died", "evaluate": "died"}


def test_a_slurm_that_does_not_answer_is_none_that_forgot(begun: Plan, slurm: SimulatedSlurm) -> None:
    (slurm.folder / "bin" / "squeue").write_text("#!/bin/bash\nexit 1\n")
    assert states(begun) == {"train": "queued", "evaluate": "queued"}
    with pytest.raises(UnfitError, match=r"squeue does not answer about Slurm job [12] of .* nothing was submitted"):
        submitter(begun).submit()


def test_a_job_that_died_before_the_harness_shows_its_logs_end(begun: Plan, slurm: SimulatedSlurm) -> None:
    log = begun.output.slurm_log("1")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("a line\nModuleNotFoundError: No module named 'harness'\nsrun: error: task 0: Exited with code 1\n")
    for number in slurm.queued():
        slurm.end(number)
    (found,) = [one for one in status.look(begun.root) if one.name.startswith("train")]
    assert found.state == "died"
    assert "whose log ends: ModuleNotFoundError: No module named 'harness'" in str(found.reason)


def test_clusters_are_told_apart(slurm: SimulatedSlurm) -> None:
    slurm.put("7", ME, "n")
    here, far = SlurmJob("7", "simulated", ME, "n"), SlurmJob("7", "far", ME, "n")
    queue = slurm_queue.ask([here, far])
    assert queue.live(here)
    assert queue.silent == {far}


def test_sbatch_says_which_cluster_it_chose(slurm: SimulatedSlurm, tmp_path: Path) -> None:
    made: Any = _sbatch.executor(tmp_path / "%j", {"nodes": 1}, "a name")
    assert made._get_job_id_from_submission_command("Submitted batch job 12 on cluster far\n") == "12"
    assert _sbatch.identity(made, "12") == SlurmJob("12", "far", ME, "a name")
    assert made._get_job_id_from_submission_command(b"Submitted batch job 13\n") == "13"
    assert _sbatch.identity(made, "13") == SlurmJob("13", "simulated", ME, "a name")
