"""Which weights a training leaves: their average, those that were best on dev; and when it ends early."""

import json
from dataclasses import replace

import pytest
import tiny_jobs
import torch
from tiny_jobs import ALONE, messages, train_now, training, weights

from harness.common.errors import UsageError
from harness.config.compose import DataSpec, compose
from harness.engine import train
from harness.engine.intermediate_evaluation import IntermediateEvaluation
from harness.engine.runtime import Stop
from harness.jobdir.events import Metrics, read_events
from harness.plan.spec import TrainSpec, read, read_as

HELD_OUT = DataSpec("synthetic", tiny_jobs.DATA, 0.3)
ON_DEV = {"data": HELD_OUT, "evaluate_every": 2, "keep": "best"}


def after_each_step(monkeypatch):
    """The weights after each iteration of trainings to come."""
    states, step = [], train.Trainer.step

    def stepped(self, *rest):
        values = step(self, *rest)
        states.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return values

    monkeypatch.setattr(train.Trainer, "step", stepped)
    return states


def stop_in(monkeypatch, at):
    """A Stop that comes while the weights after `at` iterations are evaluated, once."""
    stop, miou = Stop(), IntermediateEvaluation.miou

    def interrupted(self, model, step, stopped):
        if step == at:
            stopped.status = "preempted"
        return miou(self, model, step, stopped)

    monkeypatch.setattr(IntermediateEvaluation, "miou", interrupted)
    return stop


def equal(folder, state):
    return all(torch.equal(value, state[name]) for name, value in weights(folder).items())


def test_the_average_is_kept_and_its_buffers_are_the_models(tmp_path, monkeypatch):
    states = after_each_step(monkeypatch)
    folder = train_now(training(tmp_path, ema=0.8))
    job = read_as(folder, TrainSpec)
    parameters = {name for name, _ in train.Trainer(job, 4, ALONE).model.named_parameters()}
    for name, value in weights(folder).items():
        if name in parameters:
            slow = states[0][name].double()
            for state in states[1:]:
                slow = 0.8 * slow + 0.2 * state[name].double()
            assert torch.allclose(value.double(), slow, atol=1e-6), name
        else:
            assert torch.equal(value, states[-1][name]), name
    assert any(not torch.equal(weights(folder)[name], states[-1][name]) for name in parameters)


def test_the_average_is_what_is_evaluated_on_the_way(tmp_path, monkeypatch):
    evaluated, miou = [], IntermediateEvaluation.miou
    monkeypatch.setattr(
        IntermediateEvaluation,
        "miou",
        lambda self, model, *rest: evaluated.append((self, model.state_dict())) or miou(self, model, *rest),
    )
    folder = train_now(training(tmp_path, ema=0.5, data=HELD_OUT, evaluate_every=5))
    ((_, state),) = evaluated  # after 5 of 6; the same tensors, so as they are at the end
    assert equal(folder, state)


@pytest.mark.parametrize("at", [2, 3])
def test_an_average_resumes_bit_equal(tmp_path, monkeypatch, at):
    whole = train_now(training(tmp_path / "whole", ema=0.9))
    assert not equal(whole, weights(train_now(training(tmp_path / "plain"))))
    parts = training(tmp_path / "parts", ema=0.9)
    with monkeypatch.context() as patch:
        step, stop = train.Trainer.step, Stop()

        def stepped(self, now, *rest):
            stop.status = "preempted" if now == at else None
            return step(self, now, *rest)

        patch.setattr(train.Trainer, "step", stepped)
        assert train.train(parts, ALONE, stop).status == "preempted"
    train_now(parts)
    assert equal(parts, weights(whole))


def values_on_dev(monkeypatch, series):
    """Let evaluations give these percentages, in their order by step."""
    monkeypatch.setattr(IntermediateEvaluation, "miou", lambda self, model, step, stop: series[step])


def test_the_best_on_dev_is_kept_the_last_among_them(tmp_path, monkeypatch):
    states = after_each_step(monkeypatch)
    for best in (2, 4, 6):
        values_on_dev(monkeypatch, {2: 30.0, 4: 30.0, 6: 30.0} | ({best: 40.0} if best > 2 else {}))
        states.clear()
        folder = train_now(training(tmp_path / str(best), **ON_DEV))
        assert equal(folder, states[best - 1]), "of equal ones the first"
        assert any(f"mIoU after {best} iterations, kept the weights after {best}" in line for line in messages(folder))
    events, _ = read_events(folder / "events.jsonl")
    points = [event.step for event in events if isinstance(event, Metrics) and "dev/miou" in event.values]
    assert points == [2, 4, 6]


def test_best_of_an_average_is_the_averages(tmp_path, monkeypatch):
    states = after_each_step(monkeypatch)
    values_on_dev(monkeypatch, {2: 40.0, 4: 30.0, 6: 30.0})
    folder = train_now(training(tmp_path, ema=0.5, **ON_DEV))
    name = "decoder.source.0.weight"
    assert torch.allclose(weights(folder)[name], (states[0][name] + states[1][name]) / 2, atol=1e-7)
    assert not torch.equal(weights(folder)[name], states[1][name])


def test_patience_ends_a_training_early_with_what_keep_says(tmp_path, monkeypatch):
    states = after_each_step(monkeypatch)
    series = {2: 30.0, 4: 50.0, 6: 40.0, 8: 50.0, 10: 60.0, 12: 0.0}
    values_on_dev(monkeypatch, series)
    for keep, kept in (("best", 4), (None, 8)):
        states.clear()
        options = {**ON_DEV, "keep": keep, "patience": 2, "iterations": 12}
        folder = training(tmp_path / str(keep), **options)
        assert train.train(folder, ALONE, Stop()) == ("finished", 8, None, 0)
        assert len(states) == 8
        assert equal(folder, states[kept - 1])
        assert any("stopped early after 8 of 12 iterations" in line for line in messages(folder))


@pytest.mark.parametrize("at", [2, 4, 6], ids=["in the first", "midway", "in the last evaluation"])
def test_a_stop_within_an_evaluation_costs_nothing(tmp_path, monkeypatch, at):
    """The evaluation is made up for, since it decides; weights, the best among them and the line are the same."""
    whole = train_now(training(tmp_path / "whole", **ON_DEV))
    parts = training(tmp_path / "parts", **ON_DEV)
    with monkeypatch.context() as patch:
        ending = train.train(parts, ALONE, stop_in(patch, at))
        assert (ending.status, ending.step) == ("preempted", at)
    train_now(parts)
    assert equal(parts, weights(whole))
    assert messages(parts) == messages(whole)


def test_a_stop_between_evaluations_keeps_the_best(tmp_path, monkeypatch):
    values_on_dev(monkeypatch, {2: 50.0, 4: 30.0, 6: 30.0})
    whole = train_now(training(tmp_path / "whole", **ON_DEV))
    parts = training(tmp_path / "parts", **ON_DEV)
    with monkeypatch.context() as patch:
        step, stop = train.Trainer.step, Stop()

        def stepped(self, now, *rest):
            stop.status = "preempted" if now == 4 else None
            return step(self, now, *rest)

        patch.setattr(train.Trainer, "step", stepped)
        assert train.train(parts, ALONE, stop).step == 5
    train_now(parts)
    assert equal(parts, weights(whole))


def test_the_best_is_by_real_evaluations_on_dev_alone(tmp_path):
    folder = train_now(training(tmp_path, **ON_DEV))
    events, _ = read_events(folder / "events.jsonl")
    miou = {
        event.step: event.values["dev/miou"]
        for event in events
        if isinstance(event, Metrics) and "dev/miou" in event.values
    }
    assert sorted(miou) == [2, 4, 6]
    best = max(miou.values())
    first = min(step for step, value in miou.items() if value == best)
    assert any(line.startswith(f"best on dev: {best:.2f} mIoU after {first} iterations") for line in messages(folder))


@pytest.mark.parametrize(
    "words",
    [
        ("train.keep=best",),
        ("train.patience=2", "data.hold_out=0.2"),
        ("train.keep=best", "data.hold_out=0.2", "train.evaluate_every=5", "train.evaluate_split=val"),
        ("train.keep=best", "train.evaluate_every=5"),
    ],
)
def test_nothing_but_dev_decides(words):
    with pytest.raises(UsageError, match=r"train\.(keep=best|patience=2): .*never val"):
        compose("demo", words)


@pytest.mark.parametrize("word", ["train.ema=1", "train.ema=0", "train.patience=0", "train.keep=first"])
def test_values_out_of_range_are_refused(word):
    with pytest.raises(UsageError, match=word.partition("=")[0]):
        compose("demo", [word])


def test_a_job_reads_back_with_its_options(tmp_path):
    folder = training(tmp_path, ema=0.9, patience=3, **ON_DEV)
    job = read(folder)
    assert (job.train.ema, job.train.patience, job.train.keep) == (0.9, 3, "best")
    assert replace(job.train, ema=None, patience=None, keep=None).selects is False
    assert json.loads((folder / "job.yaml").read_text())["train"]["ema"] == 0.9
