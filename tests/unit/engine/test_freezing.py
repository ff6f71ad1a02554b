"""Frozen parameters get no gradient and no optimiser state; their layers stay in eval mode."""

import pytest
import torch
from tiny_jobs import ALONE, stop_at, train_now, training, weights

from harness.common.errors import UnfitError
from harness.config.compose import PluginSpec
from harness.engine import build, freezing, train
from harness.engine.preflight import problem
from harness.plan.spec import TrainSpec, read_as


def begun(folder):
    trainer = train.Trainer(read_as(folder, TrainSpec), 4, ALONE)
    trainer.start(None)
    return trainer


def batch(trainer):
    frames = len(trainer.offsets)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, frames, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (2, frames, 32, 32), dtype=torch.uint8, generator=generator)
    return train.Batch(images, labels, torch.arange(2), ("", ""))


def expected(rule, names):
    """The parameters that each rule means, said anew: blocks by their place in the name."""
    if rule == "encoder":
        return {name for name in names if name.startswith("encoder.")}
    if rule == "encoder:2":
        stem = {name for name in names if name.startswith("encoder.backbone.") and ".blocks." not in name}
        return stem | {name for name in names if ".blocks.0." in name or ".blocks.1." in name}
    return {name for name in names if name.startswith("decoder.") and name.endswith("bias")}


@pytest.mark.parametrize("rule", ["encoder", "encoder:2", "decoder.*bias"])
def test_frozen_parameters_have_no_gradient_no_moments_and_stay(tmp_path, rule):
    trainer = begun(training(tmp_path, freeze=rule, warmup=0))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    frozen = expected(rule, before)
    assert frozen
    gradients = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: value.grad for name, value in trainer.model.named_parameters()})
    )
    trainer.step(0, [batch(trainer)], 2 * 32 * 32)
    assert {name for name, value in gradients.items() if value is None} == frozen
    moments = {id(value) for value in trainer.optimizer.state}
    for name, value in trainer.model.named_parameters():
        assert (id(value) in moments) == (name not in frozen), name
        assert torch.equal(value, before[name]) or name not in frozen, name
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_batch_norms_of_frozen_parts_keep_their_statistics(tmp_path):
    encoder = PluginSpec("timm_pyramid", {"model": "resnet18"})
    trainer = begun(training(tmp_path, freeze="encoder", encoder=encoder))
    before = {name: value.clone() for name, value in trainer.model.named_buffers()}
    assert any("running_mean" in name for name in before if name.startswith("encoder."))
    trainer.step(0, [batch(trainer)], 2 * 32 * 32)
    train.predict(trainer.model, torch.zeros(1, 3, 32, 32))  # ends in training mode
    assert not trainer.model.encoder.training
    assert trainer.model.decoder.training
    trainer.step(1, [batch(trainer)], 2 * 32 * 32)
    for name, value in trainer.model.named_buffers():
        moved = not torch.equal(value, before[name])
        assert moved == (name.startswith("decoder.") and ("running" in name or "tracked" in name or "memory" in name))


def test_a_norm_by_pattern_stays_in_eval_alone(tmp_path):
    trainer = begun(training(tmp_path, freeze="decoder.source.1.*"))
    trainer.model.train()
    still = {name for name, module in trainer.model.named_modules() if not module.training}
    assert still == {"decoder.source.1"}


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("encodr", "no parameter of this model matches; names look like encoder.backbone"),
        ("*", "nothing is left to train"),
        ("encoder:5", "the encoder has 4 blocks"),
    ],
)
def test_rules_that_mean_nothing_or_all_are_refused_before_a_run(tmp_path, rule, reason):
    job = read_as(training(tmp_path, freeze=rule), TrainSpec)
    assert reason in problem(job, 4, 1, 1e12)
    with pytest.raises(UnfitError, match=f"train.freeze={rule[0]}".replace("*", r"\*")):
        begun(tmp_path / "jobs" / ("a" * 16))


def test_a_network_without_blocks_is_frozen_by_name(tmp_path):
    job = read_as(training(tmp_path, encoder=PluginSpec("timm_pyramid", {"model": "resnet18"})), TrainSpec)
    model = build.segmentor(job, 4)
    with pytest.raises(UnfitError, match="the encoder has 0 blocks"):
        freezing.freeze(model, "encoder:0")


def test_a_frozen_training_resumes_bit_equal(tmp_path, monkeypatch):
    whole = train_now(training(tmp_path / "whole", freeze="encoder:2"))
    parts = training(tmp_path / "parts", freeze="encoder:2")
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 2))
    train_now(parts)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
