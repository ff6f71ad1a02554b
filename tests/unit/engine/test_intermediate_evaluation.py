"""Evaluations on the way: they say what the model is worth, and leave no trace in what it becomes."""

import json

import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file
from tiny_jobs import ALONE, DATA, train_now, training

from harness.common.errors import UsageError
from harness.engine import build, evaluate, intermediate_evaluation, jobs, train
from harness.engine.intermediate_evaluation import Looks
from harness.engine.runtime import Stop
from harness.jobdir import events as journal
from harness.jobdir import pruning
from harness.jobdir.replay import measurements
from harness.results import metrics

HELD = {"name": "synthetic", "config": DATA, "hold_out": 0.3}
HOW = {"evaluate_every": 2, "evaluate_split": "dev", "evaluate_videos": None}
GEOMETRY = {"window": 32, "stride": None, "short_side": None}


def looked_at(root, name="a" * 16, decoder="decoder_a", **changes):
    """A training that is looked at: a job.yaml as harness.plan.job makes it."""
    folder = training(root, name, decoder, data=HELD, **changes)
    job = jobs.read(folder)
    job["train"] |= HOW
    (folder / "job.yaml").write_text(json.dumps({**job, "evaluate": GEOMETRY}))
    return folder


def seen(folder):
    return dict(measurements(journal.read(folder / "events.jsonl")[0], "dev/miou"))


@pytest.mark.parametrize("decoder", sorted(tiny_jobs.HEADS))
def test_weights_are_bit_equal_with_and_without(tmp_path, decoder):
    plain = train_now(training(tmp_path / "plain", decoder=decoder, data=HELD))
    looked = train_now(looked_at(tmp_path / "looked", decoder=decoder))
    assert list(seen(looked)) == [2, 4]  # never at the end
    assert seen(plain) == {}
    expected, found = (load_file(folder / "weights.safetensors") for folder in (plain, looked))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_look_is_the_evaluation_itself(tmp_path):
    folder = train_now(looked_at(tmp_path))
    job = jobs.read(folder)
    dataset = build.dataset(job)
    model = evaluate.model(folder, len(dataset.classes))
    value = Looks(job, dataset, ALONE).take(model, 6, Stop())
    dev = tiny_jobs.evaluation(tmp_path, "e" * 16, ["a" * 16], split="dev", data=HELD)
    evaluate.evaluate([evaluate.task(dev)], ALONE, Stop())
    assert value == pytest.approx(100 * metrics.miou(sum(tiny_jobs.counts(dev).values())), abs=1e-9)
    assert model.training


def test_a_flag_stops_it_within_a_step_and_it_can_go_on(tmp_path, monkeypatch):
    whole = train_now(looked_at(tmp_path / "whole"))
    folder = looked_at(tmp_path / "pruned")
    step = train.Trainer.step

    def asking(self, now, *rest):
        if now == 2:
            pruning.ask(folder)
        return step(self, now, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step", asking)
        ending = train.train(folder, ALONE, Stop())
    assert ending[:2] == ("pruned", 3)
    assert ending.exit_code == 0
    pruning.forget(folder)
    train_now(folder)
    expected, found = (load_file(one / "weights.safetensors") for one in (whole, folder))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_flag_means_nothing_to_a_training_that_nobody_looks_at(tmp_path):
    folder = training(tmp_path)
    pruning.ask(folder)
    assert train.train(folder, ALONE, Stop()).status == "finished"


def test_a_signal_breaks_a_look_off(tmp_path):
    folder = train_now(looked_at(tmp_path))
    job, stop = jobs.read(folder), Stop()
    stop.status = "preempted"
    dataset = build.dataset(job)
    assert Looks(job, dataset, ALONE).take(evaluate.model(folder, len(dataset.classes)), 6, stop) is None


def test_every_frame_of_a_look_is_a_beat(tmp_path):
    class Counting(Stop):
        beats = 0

        def beat(self):
            self.beats += 1

    folder = train_now(looked_at(tmp_path))
    job, stop = jobs.read(folder), Counting()
    dataset = build.dataset(job)
    taken = Looks(job, dataset, ALONE)
    taken.take(evaluate.model(folder, len(dataset.classes)), 6, stop)
    assert stop.beats == len(taken.videos) * DATA["frames"] > 0


def test_dev_needs_something_held_out(tmp_path):
    folder = looked_at(tmp_path)
    job = jobs.read(folder)
    del job["data"]["hold_out"]
    with pytest.raises(UsageError, match=r"set data\.hold_out"):
        Looks(job, build.dataset(job), ALONE)


def test_videos_are_spread_over_the_split():
    videos = tuple(str(index) for index in range(10))
    assert intermediate_evaluation.spread(videos, 3) == ("0", "3", "6")
    assert intermediate_evaluation.spread(videos, None) == intermediate_evaluation.spread(videos, 99) == videos
