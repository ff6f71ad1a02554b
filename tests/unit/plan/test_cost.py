import json

import pytest

from harness import cli
from harness.cli.plan_text import sharing
from harness.config.compose import compose
from harness.jobdir.events import Begin, End, Journal
from harness.plan import cost, plan
from harness.plan.job import Train
from harness.plan.spec import to_json

SMALL = ("data.synthetic.train_videos=4", "data.synthetic.val_videos=3", "train.epochs=5")


def make(root, *overrides):
    return plan.make(["ablation_ensemble"], compose("demo", (*SMALL, *overrides)), root)


def finish(full_plan, job, seconds, world, monkeypatch):
    folder = full_plan.directory(job)
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(json.dumps(to_json(job.spec())))
    step = job.config.iterations() if isinstance(job, Train) else 3
    (folder / "weights.safetensors").write_bytes(b"x" * 1000)
    outcome = {"status": "finished", "step": step, "provenance": {"world": world}}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    times = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr("harness.jobdir.events.time.time", lambda: next(times))
    diary = Journal(folder / "events.jsonl")
    diary.write(Begin(step=0, steps=step))
    diary.write(End())


def test_another_seed_and_schedule_cost_what_a_finished_job_did(tmp_path, monkeypatch):
    done = make(tmp_path)
    finish(done, done.jobs[0], 50.0, 2, monkeypatch)
    longer = make(tmp_path, "seed=1", "train.epochs=10", "train.lr=0.1")
    found = {one.name: one for one in cost.costs(longer)}
    known = found["train upernet seed 1"]
    assert known.seconds == pytest.approx(100.0)  # twice the iterations
    assert known.device_seconds == pytest.approx(200.0)
    assert known.passing == 9 * 1000
    assert "unknown" in cost.in_words(found["train decoder_a seed 1"])


def test_another_crop_is_another_cost(tmp_path, monkeypatch):
    done = make(tmp_path)
    finish(done, done.jobs[0], 50.0, 1, monkeypatch)
    other = make(tmp_path, "train.crop=32")
    monkeypatch.setattr(cost.Replay, "of", lambda path: pytest.fail(f"{path} is read, and no job like it is planned"))
    assert all(one.seconds is None for one in cost.costs(other))


def test_what_is_done_costs_nothing_and_a_checkpoint_counts(tmp_path, monkeypatch):
    full_plan = make(tmp_path)
    finish(full_plan, full_plan.jobs[0], 50.0, 1, monkeypatch)
    assert "train upernet seed 0" not in {one.name for one in cost.costs(full_plan)}
    job = next(job for job in make(tmp_path, "seed=1").jobs if job.name == "train upernet seed 1")
    folder = full_plan.directory(job) / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"step-{job.config.iterations() - 1:09d}.pt").touch()
    left = {one.name: one for one in cost.costs(make(tmp_path, "seed=1"))}["train upernet seed 1"]
    assert left.seconds == pytest.approx(50.0 / job.config.iterations())


def test_counted_flops_become_hours_at_the_stated_rate(tmp_path):
    full_plan = make(tmp_path)
    counted = {job.fingerprint: {"flops": 36e14, "parameters": 10} for job in full_plan.jobs}
    found = {one.name: one for one in cost.costs(full_plan, counted, rate=10.0)}
    one = found["train upernet seed 0"]
    assert one.device_seconds == pytest.approx(36e14 * full_plan.jobs[0].config.iterations() / 1e13)
    assert (one.kept, one.passing) == (40, 360)
    lines = "\n".join(cost.cost_lines(list(found.values())))
    assert "counted, at 10 TFLOP/s" in lines
    assert "together" in lines
    assert lines.count("h of wall time") == len(found) + 1


def test_counted_work_is_shared_by_the_ranks(tmp_path):
    full_plan = make(tmp_path)
    counted = {job.fingerprint: {"flops": 36e14, "parameters": 10} for job in full_plan.jobs}
    one, four = ({c.name: c for c in cost.costs(full_plan, counted, 10.0, ranks)} for ranks in (1, 4))
    assert one.keys() == four.keys()
    for name in one:
        assert one[name].seconds == one[name].device_seconds == four[name].device_seconds
        shares = 4 if name.startswith("train") else 3  # there are three videos
        assert four[name].seconds == pytest.approx(one[name].seconds / shares)


def test_plan_counts_by_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.common.machine.gpus", lambda: 0)
    assert cli.main(["plan", "ablation_ensemble", *SMALL, "--count", "--rate", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cost"]
    assert all(one["source"] == "counted, at 10 TFLOP/s on 1 rank(s)" for one in found)
    assert all(one["seconds"] == one["device_seconds"] > 0 for one in found)
    assert list(tmp_path.iterdir()) == []


def test_fewer_gpus_than_the_papers_are_told_what_to_do():
    assert sharing(16, 16, 8) == "8 rank(s) × 2"
    assert sharing(16, 16, 4).startswith("4 rank(s) × 4; if it runs out of memory: train.micro_batch=8 (4 × 2")
    assert sharing(16, 16, 3).startswith("2 rank(s) × 8, 1 idle")
    assert "one process" in sharing(16, 16, 0)
