"""Evaluations on the way: they say what the model is worth, and leave no trace in what it becomes."""

from dataclasses import replace

import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file
from tiny_jobs import ALONE, DATA, train_now, training

from harness.common.errors import UsageError
from harness.config.compose import DataSpec
from harness.engine import build, evaluate, intermediate_evaluation, train
from harness.engine.intermediate_evaluation import IntermediateEvaluation
from harness.engine.runtime import Stop
from harness.jobdir import pruning
from harness.jobdir.events import read_events
from harness.jobdir.replay import measurements
from harness.plan.spec import read
from harness.results import metrics

HELD = DataSpec("synthetic", DATA, 0.3)


def looked_at(root, name="a" * 16, decoder="decoder_a", **changes):
    """A training with evaluations on the way."""
    return training(root, name, decoder, data=HELD, evaluate_every=2, **changes)


def seen(folder):
    return dict(measurements(read_events(folder / "events.jsonl")[0], "dev/miou"))


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
    job = read(folder)
    dataset = build.dataset(job.data)
    model = evaluate.model(folder, len(dataset.classes))
    value = IntermediateEvaluation(job, dataset, ALONE).miou(model, 6, Stop())
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
    job, stop = read(folder), Stop()
    stop.status = "preempted"
    dataset = build.dataset(job.data)
    assert (
        IntermediateEvaluation(job, dataset, ALONE).miou(evaluate.model(folder, len(dataset.classes)), 6, stop) is None
    )


def test_every_frame_of_a_look_is_a_beat(tmp_path):
    class Counting(Stop):
        beats = 0

        def beat(self):
            self.beats += 1

    folder = train_now(looked_at(tmp_path))
    job, stop = read(folder), Counting()
    dataset = build.dataset(job.data)
    taken = IntermediateEvaluation(job, dataset, ALONE)
    taken.miou(evaluate.model(folder, len(dataset.classes)), 6, stop)
    assert stop.beats == len(taken.videos) * DATA["frames"] > 0


def test_dev_needs_something_held_out(tmp_path):
    folder = looked_at(tmp_path)
    job = read(folder)
    job = replace(job, data=replace(job.data, hold_out=None))
    with pytest.raises(UsageError, match=r"set data\.hold_out"):
        IntermediateEvaluation(job, build.dataset(job.data), ALONE)


def test_videos_are_spread_over_the_split():
    videos = tuple(str(index) for index in range(10))
    assert intermediate_evaluation.spread(videos, 3) == ("0", "3", "6")
    assert intermediate_evaluation.spread(videos, None) == intermediate_evaluation.spread(videos, 99) == videos
