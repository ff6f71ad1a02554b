"""Low-rank adaptation: training begins with the encoder's weights, moves the factors alone, and leaves their sums."""

import pytest
import torch
from test_freezing import batch, begun
from tiny_jobs import ALONE, stop_at, train_now, training, weights

from harness.config.compose import PluginSpec
from harness.engine import build, low_rank, train
from harness.engine.preflight import problem
from harness.plan.spec import TrainSpec, read_as


def test_training_begins_with_the_encoders_weights(tmp_path):
    plain, adapted = begun(training(tmp_path / "plain")), begun(training(tmp_path / "adapted", lora=3))
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        pairs = [trainer.model.eval().features(image) for trainer in (plain, adapted)]
    assert all(torch.equal(a, b) for a, b in zip(pairs[0].levels, pairs[1].levels, strict=True))


def test_only_factors_and_the_decoder_move(tmp_path):
    trainer = begun(training(tmp_path, lora=3, warmup=0))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    for iteration in range(2):  # B is 0 at first, so A has no gradient yet
        trainer.step(iteration, [batch(trainer)], 2 * 32 * 32)
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    factors = {name for name in before if low_rank.is_factor(name)}
    assert len(factors) == 2 * 2 * 4  # A and B of qkv and proj in four blocks
    assert factors <= moved
    assert {name for name in moved if name.startswith("encoder.")} == factors
    assert all(before[name].shape[0 if name.endswith("a") else 1] == 3 for name in factors)


def test_what_is_kept_is_the_sum_by_the_plain_names(tmp_path):
    folder = training(tmp_path, lora=2, ema=0.5)
    trainer = begun(folder)
    for iteration in range(3):
        trainer.step(iteration, [batch(trainer)], 2 * 32 * 32)
    kept, model = trainer.kept, trainer.evaluated.eval()
    plain = build.segmentor(read_as(training(tmp_path / "plain"), TrainSpec), 4)
    plain.load_state_dict(kept)
    state, block = model.state_dict(), "encoder.backbone.blocks.1.attn.qkv"
    original, a, b = (state[f"{block}.parametrizations.weight.{part}"] for part in ("original", "0.a", "0.b"))
    slow = original + sum(torch.outer(b[:, index], a[index]) for index in range(2))
    assert torch.allclose(kept[f"{block}.weight"], slow, atol=1e-6)
    assert not torch.equal(kept[f"{block}.weight"], original)
    image = torch.rand(1, 3, 32, 32) * 255
    with torch.no_grad():
        found, expected = (each.eval().features(image).deepest for each in (plain, model))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "freeze": "decoder.*bias"}], ids=["alone", "with others"])
def test_an_adapted_training_resumes_bit_equal_and_is_evaluated(tmp_path, monkeypatch, options):
    whole = train_now(training(tmp_path / "whole", lora=2, **options))
    parts = training(tmp_path / "parts", lora=2, **options)
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 2))
    train_now(parts)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    plain = build.segmentor(read_as(whole, TrainSpec), 4).state_dict()
    assert plain.keys() == weights(whole).keys()


def test_an_encoder_without_attention_is_refused_before_a_run(tmp_path):
    folder = training(tmp_path, lora=2, encoder=PluginSpec("timm_pyramid", {"model": "resnet18"}))
    assert "train.lora=2: the encoder has no attention" in problem(read_as(folder, TrainSpec), 4, 1, 1e12)


def test_a_plain_vits_attention_is_adapted(tmp_path):
    encoder = PluginSpec("timm_plain", {"model": "vit_tiny_patch16_224"})
    trainer = begun(training(tmp_path, lora=2, encoder=encoder))
    factors = [name for name, _ in trainer.model.named_parameters() if low_rank.is_factor(name)]
    assert len(factors) == 2 * 2 * 12
    trainer.step(0, [batch(trainer)], 2 * 32 * 32)
