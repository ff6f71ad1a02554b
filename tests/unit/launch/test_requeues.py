"""A Slurm job that starts again and again, one whose checkout has moved, and the warning before a time limit."""

import os
from pathlib import Path

import one_model
import pytest

from harness.common.atomic_files import read_json
from harness.common.errors import UsageError
from harness.config.settings import RunOptions
from harness.launch import requeues, slurm_jobs
from harness.launch.launchers import _sbatch
from harness.plan.job import Job
from harness.plan.plan import Plan

OPTIONS = RunOptions(launcher="slurm", nproc=1, slurm={"nodes": 1}, offline=True, command=("harness",))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.chdir(tmp_path)
    return one_model.made(tmp_path / "runs")


def start(plan: Plan, job: Job) -> str | None:
    return requeues.idle(plan, [job.fingerprint], "7")


def test_starts_count_until_there_is_a_checkpoint_more(made: Plan) -> None:
    job = made.jobs[0]
    for _ in range(requeues.STARTS):
        assert start(made, job) is None
    checkpoints = made.jobdir(job).checkpoints
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-1.pt").touch()
    for _ in range(requeues.STARTS):
        assert start(made, job) is None
    assert f"started {requeues.STARTS} times without a new checkpoint" in str(start(made, job))


def test_the_last_start_says_why_and_tells_somebody(
    made: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "harness.yaml").write_text("notify: 'echo $HARNESS_EVENT: $HARNESS_TEXT > told'\n")
    job = made.jobs[0]
    one_model.end(one_model.begun(made, job), "preempted", "SIGUSR2")
    for _ in range(requeues.STARTS):
        start(made, job)
    with pytest.raises(SystemExit) as left:
        slurm_jobs.task(made, [job], OPTIONS)()
    assert left.value.code == 1
    outcome = read_json(made.jobdir(job).outcome_file)
    assert outcome["status"] == "stalled"
    assert "Slurm job 7 was started 5 times without a new checkpoint or video" in outcome["reason"]
    assert "Traceback" not in capfd.readouterr().err
    told = (tmp_path / "told").read_text()
    assert told.startswith("stuck: one_model in ")
    assert outcome["reason"] in told


def test_another_harness_than_that_which_submitted_is_refused(made: Plan) -> None:
    job = made.jobs[0]
    task = slurm_jobs.SlurmTask(made.root, (made.experiments[0].digest,), (job.fingerprint,), OPTIONS, "/lab/old")
    with pytest.raises(SystemExit) as left:
        task()
    assert left.value.code == 3
    outcome = read_json(made.jobdir(job).outcome_file)
    assert outcome["status"] == "failed"
    assert "submitted by the harness in /lab/old" in outcome["reason"]


def test_the_warning_is_as_early_as_the_last_start_and_checkpoint_took(made: Plan) -> None:
    job = made.jobs[0]
    assert requeues.with_warning(made, [job], {"nodes": 1}) == {"nodes": 1}
    folder = one_model.begun(made, job)
    began = 1_800_000_000.0
    os.utime(folder / "how.json", (began, began))
    metrics = {"event": "metrics", "values": {"train/loss": 1.0}}
    one_model.say(
        folder,
        {"event": "begin", "time": began - 500, "step": 0, "steps": 10},  # an earlier attempt
        {**metrics, "time": began - 499, "step": 1},
        {"event": "begin", "time": began + 60, "step": 0, "steps": 10},
        {**metrics, "time": began + 100, "step": 1},  # start-up of 100 s
        {"event": "checkpoint", "time": began + 120, "step": 1},  # a checkpoint of 20 s
        {**metrics, "time": began + 130, "step": 2},
        {"event": "checkpoint", "time": began + 135, "step": 2},
        {**metrics, "time": began + 140, "step": 3},
        {"event": "checkpoint", "time": began + 145, "step": 2, "seconds": 12},  # written beside step 3
    )
    assert requeues.with_warning(made, [job], {"nodes": 1})["signal_delay_s"] == 180
    assert requeues.with_warning(made, [job], {"signal_delay_s": "300"})["signal_delay_s"] == "300"
    one_model.say(folder, {"event": "checkpoint", "time": began + 146, "step": 3, "seconds": 60})
    assert requeues.with_warning(made, [job], {"nodes": 1})["signal_delay_s"] == 240
    assert "#SBATCH --signal=USR2@240" in _sbatch.script(slurm_jobs.executor(made, [job], OPTIONS, []))
    with pytest.raises(UsageError, match=r"time=3: start-up and a checkpoint of train .* took 160 s before"):
        requeues.with_warning(made, [job], {"time": "3"})
