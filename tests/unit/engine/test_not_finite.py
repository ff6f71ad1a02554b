"""A loss, a gradient or a state that is not finite: nothing is kept of it, and fp16 may pass over some."""

import math

import pytest
import torch
from tiny_jobs import ALONE, train_now, training, weights

from harness.common.errors import HarnessError
from harness.engine import checkpoint, saving, train
from harness.engine.runtime import Rank, Stop
from harness.plan.spec import read


def test_loss_that_is_not_finite_ends_before_weights_take_it(tmp_path):
    folder = training(tmp_path)
    job = read(folder)
    trainer = train.Trainer(job, 4, Rank(0, 1, torch.device("cpu"), 1))
    trainer.start(None)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    batch = train.Batch(
        torch.full((2, 2, 3, 32, 32), math.nan), torch.zeros(2, 2, 32, 32, dtype=torch.uint8), torch.arange(2), ("", "")
    )
    with pytest.raises(HarnessError, match="not finite at iteration 0"):
        trainer.step(0, [batch], 2 * 32 * 32)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    assert not trainer.model.decoder.memory.initialised.any()


def a_batch(value, name):
    frames = torch.full((2, 2, 3, 32, 32), value)
    return train.Batch(frames, torch.zeros(2, 2, 32, 32, dtype=torch.uint8), torch.arange(2), (name, f"{name}0"))


def test_a_bad_loss_names_its_samples_alone(tmp_path):
    job = read(training(tmp_path, micro_batch=2))
    trainer = train.Trainer(job, 4, ALONE)
    trainer.start(None)
    batches = [a_batch(0.0, "street/1"), a_batch(math.nan, "river/7")]
    with pytest.raises(HarnessError, match=r"iteration 5: .*samples river/7, river/70;"):
        trainer.step(5, batches, 4 * 32 * 32)


def test_fp16s_scaler_may_pass_over_some(tmp_path, monkeypatch):
    """The scaler works on a CPU too, though fp16 itself is refused there."""
    monkeypatch.setattr(train, "SKIPS", 2)
    job = read(training(tmp_path))
    trainer = train.Trainer(job, 4, ALONE)
    trainer.start(None)
    trainer.scaler = torch.amp.GradScaler("cpu")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    for iteration in range(2):
        assert trainer.step(iteration, [a_batch(math.nan, "river/7")], 32 * 32) == {"skipped": 1.0}
    assert not saving.not_finite(trainer), "batch norm's statistics"
    assert trainer.scaler.get_scale() == 2.0**14  # halved twice
    with pytest.raises(HarnessError, match="river/7"):
        trainer.step(2, [a_batch(math.nan, "river/7")], 32 * 32)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    assert not trainer.model.decoder.memory.initialised.any()


class Overflows(torch.autograd.Function):
    """The value itself, whose gradient is not finite: as a backward pass does it that overflows under a finite loss."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def overflow_at(monkeypatch, at):
    """Let the gradients of one iteration of trainings be infinite, under a finite loss."""
    step, losses, now = train.Trainer.step, train.losses, []

    def stepped(self, iteration, *rest):
        now[:] = [iteration]
        return step(self, iteration, *rest)

    def lost(*arguments):
        found = losses(*arguments)
        return {**found, "loss": Overflows.apply(found["loss"])} if now == [at] else found

    monkeypatch.setattr(train.Trainer, "step", stepped)
    monkeypatch.setattr(train, "losses", lost)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("at", [3, 5], ids=["midway", "at the last iteration"])
def test_gradient_that_is_not_finite_ends_before_anything_takes_it(tmp_path, monkeypatch, precision, at):
    """The last checkpoint stands, and the same command ends as if nothing had been."""
    whole = weights(train_now(training(tmp_path / "whole", precision=precision)))
    folder = training(tmp_path / "parts", precision=precision)
    with monkeypatch.context() as patch:
        overflow_at(patch, at)
        with pytest.raises(HarnessError, match=rf"the gradient is not finite at iteration {at}: .*samples \w+/"):
            train.train(folder, ALONE, Stop())
    last = checkpoint.latest(folder / "checkpoints", print)
    assert last == at // 2 * 2
    assert not (folder / "weights.safetensors").exists()
    found = weights(train_now(folder))
    assert all(torch.equal(value, found[name]) for name, value in whole.items())


@pytest.mark.parametrize("part", ["parameters", "buffers", "moments"])
def test_a_state_that_is_not_finite_is_never_kept(tmp_path, monkeypatch, part):
    step = train.Trainer.step

    def spoiled(self, iteration, *rest):
        found = step(self, iteration, *rest)
        if iteration == 3:
            moments = (value["exp_avg_sq"] for value in self.optimizer.state.values())
            next(moments if part == "moments" else getattr(self.model, part)()).data.fill_(math.nan)
        return found

    monkeypatch.setattr(train.Trainer, "step", spoiled)
    folder = training(tmp_path)
    with pytest.raises(HarnessError, match="the state is not finite at iteration 4"):
        train.train(folder, ALONE, Stop())
    assert checkpoint.latest(folder / "checkpoints", print) == 2
