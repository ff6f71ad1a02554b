"""Losses beside the plain cross entropy, in the trainer: divided by global counts, named, seen by fp16's scaler."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_jobs
import torch
from test_freezing import batch, begun
from tiny_jobs import ALONE, messages, stop_at, train_now, training, weights

from harness.common.errors import UnfitError
from harness.config.compose import PluginSpec
from harness.config.sections import TrainConfig
from harness.engine import build, class_weights, losses, train
from harness.engine.losses import Terms
from harness.engine.preflight import problem
from harness.jobdir.events import Metrics, read_events
from harness.plan.spec import TrainSpec, read_as
from models.contract import Auxiliary, Loss, Output

EXAMPLES = str(Path(__file__).parents[3] / "docs" / "examples")
BOUNDARY = {"decoder": PluginSpec("boundary_loss", {"channels": 8, "aux_channels": 8}), "plugins": (EXAMPLES,)}
ALL = {"class_weights": (0.5, 1.0, 2.0, 4.0), "ohem": 0.7, "dice": 0.3, "lovasz": 0.2}


def own(root, **changes):
    """A training of the example's decoder."""
    folder = training(root, decoder="upernet", **changes)
    tiny_jobs.rewrite(folder, replace(read_as(folder, TrainSpec), **BOUNDARY))
    return folder


def case():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 8, 8, generator=draw)
    labels = torch.randint(0, 3, (4, 8, 8), generator=draw)
    labels[:2, :6] = 255
    return logits, labels, int((labels != 255).sum())


def test_a_further_loss_is_its_sum_over_its_count_and_in_the_whole_by_its_weight():
    logits, labels, valid = case()
    plain = losses.losses(Output(logits), labels, valid)
    further = (Loss("own", torch.tensor(6.0), 4, 0.5), Loss("none", torch.tensor(0.0), torch.tensor(0)))
    parts = losses.losses(Output(logits, further=further), labels, valid)
    assert list(parts) == ["loss", "loss_main", "own", "none"]
    assert (float(parts["own"]), float(parts["none"])) == (1.5, 0.0)
    assert float(parts["loss"]) == pytest.approx(float(plain["loss"]) + 0.75)
    assert torch.equal(parts["loss_main"], plain["loss_main"])
    split = losses.losses(Output(logits, further=further), labels, valid, Terms(micro_batches=2))
    assert float(split["own"]) == 0.75  # one of two equal shares of the iteration


@pytest.mark.parametrize("name", ["loss", "loss_main", "lr", "momentum", "coarse", "dice"])
def test_two_losses_of_one_name_are_refused(name):
    logits, labels, valid = case()
    output = Output(logits, (Auxiliary("coarse", logits, 0.4),), None, (Loss(name, torch.tensor(1.0), 1),))
    with pytest.raises(UnfitError, match=f"named '{name}'"):
        losses.losses(output, labels, valid, Terms(dice=1.0, ohem=0.7))


def test_keys_change_the_loss_as_they_say():
    """Against torch's own weighted mean, and plain selections of pixels."""
    logits, labels, valid = case()
    auxiliary = (Auxiliary("coarse", logits.flip(0), 0.4),)
    mean = torch.nn.functional.cross_entropy
    weight = torch.tensor([0.5, 1.0, 4.0])
    total = float(weight[labels[labels != 255]].sum())
    parts = losses.losses(Output(logits, auxiliary), labels, total, Terms(weight))
    assert float(parts["loss_main"]) == pytest.approx(float(mean(logits, labels, weight, ignore_index=255)), rel=1e-6)
    assert float(parts["coarse"]) == pytest.approx(
        float(mean(logits.flip(0), labels, weight, ignore_index=255)), rel=1e-6
    )
    parts = losses.losses(Output(logits, auxiliary), labels, valid, Terms(ohem=0.3))
    own_probability = logits.softmax(1).gather(1, labels.clamp_max(2)[:, None])[:, 0]
    hard = labels.masked_fill(own_probability >= 0.3, 255)  # more than a sixteenth of each image
    assert float(parts["loss_main"]) == pytest.approx(float(mean(logits, hard, ignore_index=255)), rel=1e-6)
    assert float(parts["coarse"]) == pytest.approx(float(mean(logits.flip(0), labels, ignore_index=255)), rel=1e-6)
    parts = losses.losses(Output(logits, auxiliary), labels, valid, Terms(dice=0.3, lovasz=0.2))
    expected = parts["loss_main"] + 0.4 * parts["coarse"] + 0.3 * parts["dice"] + 0.2 * parts["lovasz"]
    assert torch.allclose(parts["loss"], expected)
    assert 0 < float(parts["dice"]) < 1


def test_a_batch_without_labels_is_loss_0_under_all_keys():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    terms = Terms(torch.tensor([1.0, 2.0, 3.0]), 0.7, 1.0, 1.0)
    parts = losses.losses(Output(logits), torch.full((2, 4, 4), 255), 0.0, terms)
    parts["loss"].backward()
    assert {float(value.detach()) for value in parts.values()} == {0.0}
    assert not logits.grad.any()


def test_all_keys_train_by_name_and_resume_bit_equal(tmp_path, monkeypatch):
    whole = train_now(own(tmp_path / "whole", micro_batch=2, **ALL))
    events, _ = read_events(whole / "events.jsonl")
    (names, *_) = [event.values.keys() for event in events if isinstance(event, Metrics)]
    assert {"train/dice", "train/lovasz", "train/boundary", "train/loss_main", "train/auxiliary"} <= set(names)
    parts = own(tmp_path / "parts", micro_batch=2, **ALL)
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 2))
    train_now(parts)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_fp16s_scaler_sees_a_loss_of_ones_own(tmp_path):
    """Its gradient is scaled with the others, and where it is not finite the iteration is passed over."""
    trainer = begun(own(tmp_path))
    plain, scaled = {}, {}

    def gradients(into):
        into.update(
            {name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None}
        )
        trainer.optimizer.zero_grad(set_to_none=True)

    torch.manual_seed(0)
    trainer.model.train()
    trainer.backward(batch(trainer), 2 * 32 * 32, 0.5)
    gradients(plain)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(0)
    trainer.backward(batch(trainer), 2 * 32 * 32, 0.5)
    gradients(scaled)
    for name, value in plain.items():
        assert torch.allclose(scaled[name], 1024 * value, rtol=1e-3, atol=1e-2 * float(value.norm())), name
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    forward = trainer.model.decoder.forward

    def wild(*arguments):
        output = forward(*arguments)
        return output._replace(further=(Loss("boundary", output.logits.sum() * math.nan, 1),))

    trainer.model.decoder.forward = wild
    assert trainer.step(0, [batch(trainer)], 2 * 32 * 32) == {"skipped": 1.0}
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_weights_by_frequency_are_what_counting_says(tmp_path):
    job = read_as(training(tmp_path), TrainSpec)
    dataset = build.dataset(job.data)
    pixels = Counter()
    for video in dataset.videos("train"):
        for name in dataset.frames("train", video):  # fewer than are read at most
            pixels.update(dataset.read("train", video, name).label.ravel().tolist())
    pixels.pop(255, None)
    expected = [1 / math.log(1.02 + pixels[k] / pixels.total()) for k in range(4)]
    assert class_weights.by_frequency(dataset, ALONE).tolist() == pytest.approx(expected, rel=1e-6)
    folder = train_now(training(tmp_path / "run", class_weights="frequency"))
    (line,) = messages(folder)
    assert line.startswith("class weights by frequency: from ")
    given = train_now(training(tmp_path / "given", class_weights=tuple(expected)))
    for name, value in weights(given).items():
        assert torch.allclose(value.float(), weights(folder)[name].float(), atol=1e-4), name


def test_at_most_eight_frames_of_a_video_are_counted():
    assert class_weights.spread([str(k) for k in range(16)]) == [str(k) for k in range(0, 16, 2)]
    assert class_weights.spread(["a", "b"]) == ["a", "b"]


def test_the_batchs_weights_are_those_of_its_labelled_pixels(tmp_path):
    trainer = begun(training(tmp_path, class_weights=(1.0, 2.0, 3.0, 4.5)))
    some = batch(trainer)
    some.labels[:, :, :20] = 255
    last = some.labels[:, -1]
    expected = sum((1.0, 2.0, 3.0, 4.5)[int(label)] for label in last[last != 255])
    assert class_weights.total([some, some], trainer.class_weights) == pytest.approx(2 * expected)


def test_another_number_of_weights_is_refused_before_a_run(tmp_path):
    job = read_as(training(tmp_path, class_weights=(1.0, 2.0)), TrainSpec)
    assert problem(job, 4, 1, 1e12) == "train.class_weights: has 2 numbers, the data has 4 classes"
    assert class_weights.given(TrainConfig(class_weights="frequency"), 4) is None
