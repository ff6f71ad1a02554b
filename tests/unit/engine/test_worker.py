import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_jobs import ALONE, counts, evaluation, training

from harness.config.compose import PluginSpec
from harness.engine import checkpoint, jobs, train, worker
from harness.engine.jobs import Ending
from harness.engine.runtime import Rank, Stop, Stopped
from harness.jobdir import lease
from harness.jobdir.events import read_events
from harness.jobdir.lease import Claim
from harness.jobdir.replay import Replay
from harness.plan import spec
from harness.plan.spec import to_json

A = "a" * 16
REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1"}


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "harness.engine.worker", *map(str, arguments)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # also under nohup
        **options,
    )


def outcome(folder):
    return json.loads((folder / "outcome.json").read_text())


def wait_for_step(folder, step, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if max(Replay.of(folder / "events.jsonl").losses, default=-1) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} within {seconds} s")


def test_launch_trains_then_evaluates(tmp_path):
    member, job = training(tmp_path, A, iterations=2), evaluation(tmp_path, "e", [A])
    assert worker.launch([job, member], ALONE, Stop()) == 0
    found = outcome(member)
    assert (found["status"], found["step"], found["exit_code"]) == ("finished", 2, 0)
    assert found["provenance"]["threads"] == 1
    assert found["seconds"] > 0
    assert len(counts(job)) == 3
    assert not (job / "outcome.json").exists()  # written by whoever sees all ranks' videos


def test_failed_job_says_why_and_the_others_go_on(tmp_path):
    bad = training(tmp_path, "bad", encoder=PluginSpec("beit", {"model": "beit_of_nobody"}))
    needs, good = evaluation(tmp_path, "needs", ["bad"]), training(tmp_path, A, iterations=1)
    assert worker.launch([bad, needs, good], ALONE, Stop()) == 1
    assert outcome(bad)["status"] == "failed"
    assert outcome(bad)["exit_code"] == 3
    assert "beit_of_nobody" in outcome(bad)["reason"]
    assert "Traceback" in (bad / "error.txt").read_text()
    assert "train it first" in outcome(needs)["reason"]
    assert outcome(good)["status"] == "finished"


def test_defect_of_the_program_is_named_with_its_kind(tmp_path, monkeypatch):
    job = training(tmp_path, A, decoder="decoder_a")
    monkeypatch.setattr(worker.train, "run", lambda *_: {}["warmup"])
    assert worker.launch([job], ALONE, Stop()) == 1
    assert outcome(job)["reason"] == "KeyError: 'warmup'"
    assert outcome(job)["exit_code"] == 1


def test_a_description_without_a_key_that_numbers_depend_on_is_unfit(tmp_path):
    job = training(tmp_path, A)
    content = json.loads((job / "job.yaml").read_text())
    del content["train"]["evaluate_every"], content["train"]["log_every"]  # `where`: no number depends on them
    del content["train"]["warmup"]
    (job / "job.yaml").write_text(json.dumps(content))
    assert worker.launch([job], ALONE, Stop()) == 1
    assert outcome(job)["reason"].endswith("job.yaml: 'warmup' is missing; plan the job again")
    assert outcome(job)["exit_code"] == 3


def test_stop_that_follows_from_a_failure_does_not_hide_it(tmp_path):
    jobs.end(tmp_path, Ending("failed", reason="frame 3 is damaged", exit_code=3), 1.0, Rank(1, 2, ALONE.device, 1))
    jobs.end(tmp_path, jobs.stopped("preempted", 4), 1.0, ALONE)
    assert outcome(tmp_path)["status"] == "failed"


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "returned"])
def test_a_stop_is_not_written_where_a_later_attempt_has_the_job(tmp_path, raised):
    first, endings = Claim(tmp_path).take(), []

    def work():
        first.renew(released=True)
        assert Claim(tmp_path).take().number == 2
        if raised:
            raise Stopped("preempted")
        return jobs.stopped("preempted", 0)

    worker.guarded(endings, ALONE, {tmp_path: partial(lease.check, tmp_path, first.number)}, [tmp_path], work)
    assert [ending.status for ending in endings] == ["superseded"]
    assert not (tmp_path / "outcome.json").exists()


def test_no_password_of_an_exception_is_kept(tmp_path, monkeypatch):
    job = training(tmp_path, A)

    def refused(*arguments):
        raise RuntimeError("cannot read s3://key:s3cret@host/x, token=s3cret")

    monkeypatch.setattr(train, "train", refused)
    assert worker.launch([job], ALONE, Stop()) == 1
    assert outcome(job)["reason"] == "RuntimeError: cannot read s3://key:***@host/x, token=***"
    assert "Traceback" in (job / "error.txt").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_folder_without_a_job_fails(tmp_path):
    assert worker.launch([tmp_path / "nothing"], ALONE, Stop()) == 1
    assert outcome(tmp_path / "nothing")["exit_code"] == 3


def test_first_cause_stands_against_what_follows_from_it(tmp_path):
    cause, effect = Ending("failed", reason="frame 3 is damaged", exit_code=3), Ending("failed", reason="peer closed")
    jobs.end(tmp_path, cause, 1.0, Rank(1, 2, ALONE.device, 1))
    jobs.end(tmp_path, effect, 1.0, Rank(0, 2, ALONE.device, 1))
    assert outcome(tmp_path)["reason"] == "frame 3 is damaged"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, "preempted"), (signal.SIGHUP, "preempted"), (signal.SIGINT, "cancelled")],
)
def test_signal_leaves_a_checkpoint_and_75(tmp_path, number, status):
    job = training(tmp_path, A, iterations=100_000, checkpoint_every=100_000, workers=1)
    process = start(job)
    wait_for_step(job, 2)
    process.send_signal(number)
    assert process.wait(60) == 75
    found = outcome(job)
    assert (found["status"], found["exit_code"]) == (status, 75)
    assert found["step"] >= 2
    assert checkpoint.latest(job / "checkpoints", print) == found["step"]
    assert read_events(job / "events.jsonl")[0][-1].status == status


@contextmanager
def serving():
    """A worker that serves, the file that launches are written to, and the one that answers come from."""
    (source, launches), (answers, target) = os.pipe(), os.pipe()
    process = start("--serve", str(source), str(target), pass_fds=(source, target))
    os.close(source)
    os.close(target)
    with os.fdopen(launches, "w") as out, os.fdopen(answers) as back:
        yield process, out, back


def test_serving_answers_each_launch_on_a_descriptor_of_its_own(tmp_path):
    first, second = training(tmp_path, A, iterations=1), evaluation(tmp_path, "e", [A])
    with serving() as (process, launches, answers):
        for job in (first, second):
            launches.write(json.dumps({"jobs": [str(job)]}) + "\n")
            launches.flush()
            assert json.loads(answers.readline()) == {"exit_code": 0}
        launches.close()
        assert process.wait(30) == 0
        assert answers.read() == ""
    assert len(counts(second)) == 3


def test_a_server_tries_networks_in_a_fork_and_stays_as_new(tmp_path):
    """What is drawn, loaded or switched there does not reach the launches: weights are those of a worker of its own."""
    folders = [training(tmp_path / name, A, iterations=1) for name in ("alone", "after")]
    content = json.loads(json.dumps(to_json(spec.read(folders[0]))))
    question = {"jobs": [content], "classes": 4, "ranks": 1, "here": True}
    window = {"evaluate": content["evaluate"] | {"window": 48}}
    for folder, trials in ((folders[0], 0), (folders[1], 2)):
        with serving() as (process, launches, answers):

            def ask(message):
                launches.write(json.dumps(message) + "\n")
                launches.flush()
                return json.loads(answers.readline())

            for _ in range(trials):
                assert ask({"preflight": question}) == {"problem": ""}
                problem = ask({"preflight": question | {"jobs": [content | window]}})["problem"]
                assert problem.startswith("evaluate.window=48: the encoder accepts only")
            assert ask({"jobs": [str(folder)]}) == {"exit_code": 0}
            launches.close()
            assert process.wait(30) == 0
    alone, after = (load_file(folder / "weights.safetensors") for folder in folders)
    assert all(torch.equal(alone[name], after[name]) for name in alone | after)


def test_idle_server_ends_at_once_on_a_signal(tmp_path):
    with serving() as (process, launches, answers):
        launches.write('{"jobs": []}\n')
        launches.flush()
        answers.readline()
        time.sleep(0.2)  # it reads again
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75


@pytest.mark.slow  # test_end_to_end asks the same of two ranks that `harness run` starts
def test_two_ranks_by_torchrun(tmp_path):
    member, job = training(tmp_path, A, iterations=2), evaluation(tmp_path, "e", [A])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "harness.engine.worker", str(member), str(job)]
    ended = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert outcome(member)["status"] == "finished"
    assert outcome(member)["provenance"]["world"] == 2
    assert len(counts(job)) == 3
    assert Replay.of(job / "events.jsonl").attempts == 1  # one rank keeps the journal
