"""Group normalisation instead of the decoder's batch normalisation: no image of a batch changes another's logits."""

import pytest
import torch
from test_freezing import batch, begun
from tiny_jobs import ALONE, HEADS, stop_at, train_now, training, weights
from torch import nn

from harness.common.errors import UnfitError, UsageError
from harness.config.compose import compose
from harness.engine import evaluate, group_norm, train
from harness.engine.preflight import problem
from harness.plan import plan as planning
from harness.plan.job import Train
from harness.plan.spec import TrainSpec, read_as


def slow(value, weight, bias, groups, eps):
    """Equation 1 of the paper, image by image and group by group."""
    out = torch.empty_like(value)
    width = value.shape[1] // groups
    for image in range(len(value)):
        for group in range(groups):
            part = slice(group * width, (group + 1) * width)
            some = value[image, part].double()
            whitened = (some - some.mean()) / (some.var(correction=0) + eps).sqrt()
            scaled = whitened * weight[part, None, None] + bias[part, None, None]
            out[image, part] = scaled.float()
    return out


def test_it_is_the_papers_with_the_parameters_of_the_batch_norm():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, eps=1e-3))
    nn.init.normal_(head[1].weight)
    nn.init.normal_(head[1].bias)
    before = dict(head.named_parameters())
    group_norm.replace_batch_norm(head, 4)
    assert dict(head.named_parameters()) == before
    value = torch.randn(2, 8, 3, 5)
    expected = slow(value, before["1.weight"], before["1.bias"], 4, 1e-3)
    assert torch.allclose(head[1](value), expected, atol=1e-5)


@pytest.mark.parametrize("decoder", HEADS)
def test_the_decoder_has_no_batch_norm_and_the_encoder_keeps_its_own(tmp_path, decoder):
    model = begun(training(tmp_path, decoder=decoder, group_norm=4)).model
    kinds = [type(module) for module in model.decoder.modules()]
    assert nn.BatchNorm2d not in kinds
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d in [type(module) for module in model.encoder.modules()]  # of BEiT's pyramid


@pytest.mark.parametrize("decoder", HEADS)
def test_a_training_steps_resumes_bit_equal_and_is_evaluated(tmp_path, monkeypatch, decoder):
    options = {"decoder": decoder, "group_norm": 2, "batch": 1, "micro_batch": 1}
    whole = train_now(training(tmp_path / "whole", **options))
    parts = training(tmp_path / "parts", **options)
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 2))
    train_now(parts)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    assert not any("running_mean" in name for name in weights(whole) if name.startswith("decoder."))
    assert isinstance(evaluate.model(whole, 4), nn.Module)


def test_a_gradient_of_two_images_is_the_sum_of_each_ones(tmp_path):
    """The encoder, whose pyramid has a batch norm, is frozen; nothing is dropped out."""
    trainer = begun(training(tmp_path, decoder="upernet", group_norm=2, freeze="encoder"))
    for module in trainer.model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    trainer.model.train()
    whole = batch(trainer)
    gradients = []
    for parts in ([whole], [train.Batch(*(value[row : row + 1] for value in whole[:4])) for row in range(2)]):
        trainer.optimizer.zero_grad()
        for part in parts:
            trainer.backward(part, 2 * 32 * 32, 0.5)
        gradients.append({name: value.grad.clone() for name, value in trainer.model.decoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-7), name


def test_groups_that_do_not_divide_are_refused_before_a_run(tmp_path):
    folder = training(tmp_path, group_norm=3)
    assert "train.group_norm=3: must divide the 8 channels of decoder." in problem(
        read_as(folder, TrainSpec), 4, 1, 1e12
    )


@pytest.mark.parametrize(
    ("decoder", "says"),
    [(nn.Conv2d(3, 4, 1), "has no batch norm"), (nn.Sequential(nn.BatchNorm1d(4)), "decoder.0 is a BatchNorm1d")],
)
def test_decoders_that_it_cannot_do_are_named(decoder, says):
    with pytest.raises(UnfitError, match=says):
        group_norm.replace_batch_norm(decoder, 2)


def test_with_it_a_micro_batch_may_be_one_image(tmp_path):
    words = ["train.micro_batch=1", "train.batch=2"]
    with pytest.raises(UsageError, match=r"train\.group_norm=32"):
        planning.make(["ablation_ensemble"], compose("demo", words), tmp_path)
    made = planning.make(["ablation_ensemble"], compose("demo", [*words, "train.group_norm=4"]), tmp_path)
    assert len({job.fingerprint for job in made.jobs if isinstance(job, Train)}) == 3
