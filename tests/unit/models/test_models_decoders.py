"""Every decoder of the folder against the contract; then what is particular to the memory's."""

import copy
import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models.decoders
from models import contract
from models.contract import VOID, Features, Target
from models.decoders import decoder_a, decoder_b

NAMES = sorted(path.stem for path in Path(models.decoders.__path__[0]).glob("*.py") if not path.stem.startswith("_"))
CHANNELS, CLASSES, SIDE, BATCH = (8, 10, 12, 6), 5, 64, 2

EVERY = pytest.mark.parametrize("name", NAMES)


def make(name, **options):
    """A decoder of the folder with its own defaults, narrow."""
    module = importlib.import_module(f"models.decoders.{name}")
    config = module.Config()
    narrow = {
        field.name: 16
        for field in dataclasses.fields(config)
        if type(getattr(config, field.name)) is int and getattr(config, field.name) > 16
    }
    return module.Decoder(CHANNELS, 9, CLASSES, dataclasses.replace(config, **(narrow | options))).double()


def features():
    levels = (
        torch.randn(BATCH, width, SIDE // r, SIDE // r) for width, r in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    )
    return Features(tuple(level.double() for level in levels), torch.randn(BATCH, 9, SIDE // 16, SIDE // 16).double())


def target():
    labels = torch.randint(0, CLASSES - 1, (BATCH, SIDE, SIDE))  # the last class is never seen
    labels[:, :8] = VOID
    return Target(labels, torch.tensor([11, 12]))


def past_of(decoder):
    return tuple(features() for _ in decoder.past)


def taught(name, **options):
    """A decoder whose memory, if it has one, has seen a batch, in eval mode."""
    decoder = make(name, **options)
    output = decoder(features(), past_of(decoder), None, target())
    decoder.update(output.sums, 0.5)
    return decoder.eval()


@EVERY
def test_it_keeps_the_contract(name):
    module = importlib.import_module(f"models.decoders.{name}")
    decoder = make(name)
    assert isinstance(decoder, contract.Decoder)
    assert isinstance(module.VERSION, int)
    assert module.Config.__dataclass_params__.frozen
    assert decoder.prior in ("none", "previous", "own")
    assert list(decoder.past) == sorted(decoder.past)
    assert all(offset < 0 for offset in decoder.past)
    assert 0 <= decoder.gt_warmup <= 1
    assert all(0 <= decoder.momentum_at(t / 10) <= 1 for t in range(11))


@EVERY
@pytest.mark.parametrize("given", [False, True])
def test_every_parameter_gets_a_gradient(name, given):
    decoder, aim = make(name), target()
    output = decoder(features(), past_of(decoder), aim.labels if given else None, aim)
    assert output.logits.shape[:2] == (BATCH, CLASSES)
    losses = [F.cross_entropy(F.interpolate(output.logits, SIDE), aim.labels, ignore_index=VOID)]
    for auxiliary in output.auxiliary:
        resized = F.interpolate(auxiliary.logits, SIDE)
        losses.append(auxiliary.weight * F.cross_entropy(resized, aim.labels, ignore_index=VOID))
    sum(losses).backward()
    missing = [key for key, value in decoder.named_parameters() if value.grad is None]
    assert missing == []
    assert all(torch.isfinite(value.grad).all() for value in decoder.parameters())
    assert len({auxiliary.name for auxiliary in output.auxiliary}) == len(output.auxiliary)


@EVERY
def test_predictions_are_repeatable(name):
    decoder = taught(name)
    seen, past, prior = features(), past_of(decoder), target().labels
    cache = decoder.encode(seen, past)
    first = decoder.predict(cache, prior)
    own = decoder.predict(cache)
    assert first.shape == (BATCH, CLASSES, SIDE // 4, SIDE // 4)
    assert torch.equal(first, decoder.predict(cache, prior))  # other stages in between leave no trace
    assert torch.equal(own, decoder.predict(decoder.encode(seen, past)))


@EVERY
def test_a_given_prior_matters_where_the_decoder_says_so(name):
    decoder = taught(name)
    cache = decoder.encode(features(), past_of(decoder))
    zeros = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.uint8)
    one, other = decoder.predict(cache, zeros), decoder.predict(cache, zeros + 1)
    assert torch.equal(one, other) == (decoder.prior == "none")


@EVERY
def test_training_reads_the_memory_and_update_writes_what_was_seen(name):
    decoder, aim = make(name), target()
    before = {key: value.clone() for key, value in decoder.named_buffers() if key.startswith("memory.")}
    output = decoder(features(), past_of(decoder), None, aim)
    assert all(torch.equal(dict(decoder.named_buffers())[key], value) for key, value in before.items())
    if output.sums is None:
        assert before == {}
        return
    assert not any(value.requires_grad for value in output.sums)
    decoder.update(output.sums.merge(output.sums), 0.5)
    changed = (decoder.memory.rows != before["memory.rows"]).any(1)
    assert changed.tolist() == [True] * (CLASSES - 1) + [False]


@EVERY
def test_a_step_depends_on_nothing_but_its_arguments(name):
    decoder, seen, aim = make(name), features(), target()
    past = past_of(decoder)
    outputs = []
    for module in (copy.deepcopy(decoder), copy.deepcopy(decoder)):
        torch.manual_seed(5)
        outputs.append(module(seen, past, None, aim))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert outputs[0].sums is None or all(map(torch.equal, outputs[0].sums, outputs[1].sums))


MEMORY = pytest.mark.parametrize("name", ["decoder_a", "decoder_b"])


@MEMORY
def test_prediction_depends_on_p_through_its_histogram_only(name):
    decoder = taught(name)
    cache = decoder.encode(features(), past_of(decoder))
    prior = torch.randint(0, CLASSES, (BATCH, SIDE // 8, SIDE // 8))
    shuffled = prior.flatten(1)[:, torch.randperm(64)].view_as(prior)
    assert torch.equal(decoder.predict(cache, prior), decoder.predict(cache, shuffled))
    assert not torch.equal(decoder.predict(cache, prior), decoder.predict(cache, prior.clamp_max(1)))


@MEMORY
def test_the_split_convolution_is_the_one_over_both_halves(name):
    decoder = taught(name)
    within, beyond = torch.randn(1, 16, 6, 6).double(), torch.randn(1, 16, 6, 6).double()
    weight = torch.cat([decoder.fuse_within.weight, decoder.fuse_beyond.weight], dim=1)
    whole = F.conv2d(torch.cat([within, beyond], dim=1), weight, padding=1)
    torch.testing.assert_close(decoder.fuse_within(within) + decoder.fuse_beyond(beyond), whole)


@MEMORY
def test_momentum_case_of_the_oracle(oracle, name):
    given = oracle["momentum_poly"]
    decoder = make(name, momentum=given["m0"])
    for step, expected in given["values"].items():
        assert decoder.momentum_at(int(step) / given["T"]) == pytest.approx(expected, abs=1e-11)
    assert make(name, momentum=0.1, schedule="fixed").momentum_at(0.7) == 0.1


@MEMORY
def test_without_a_prior_the_own_coarse_mask_is_read(name):
    decoder = taught(name)
    cache = decoder.encode(features(), past_of(decoder))
    assert torch.equal(decoder.predict(cache), decoder.predict(cache, cache.coarse))


def test_rules_for_the_first_frame():
    decoder = taught("decoder_a")
    assert decoder.prior == "previous"
    cache = decoder.encode(features())
    coarse = decoder.predict(cache)
    decoder.first_frame = "self2"
    assert torch.equal(decoder.predict(cache), decoder.predict(cache, coarse.argmax(1)))
    decoder.first_frame = "uniform"
    each = torch.arange(CLASSES - 1).repeat(16).view(1, 8, 8).expand(BATCH, -1, -1)  # every class seen, equally often
    torch.testing.assert_close(decoder.predict(cache), decoder.predict(cache, each))
    assert not torch.equal(decoder.predict(cache), coarse)


def test_decoder_a_takes_its_own_mask_if_told():
    decoder = taught("decoder_a", prior="current_coarse", first_frame="uniform")
    cache = decoder.encode(features())
    assert decoder.prior == "own"
    assert torch.equal(decoder.predict(cache), decoder.predict(cache, cache.coarse))


def test_decoder_b_reads_earlier_frames():
    decoder = taught("decoder_b", frames=3)
    assert decoder.past == (-3, -2, -1)
    current = features()
    one, other = (decoder.predict(decoder.encode(current, past_of(decoder)), target().labels) for _ in range(2))
    assert not torch.equal(one, other)
    assert make("decoder_b", memory_grad=True).past_grad
    assert not decoder.past_grad


@MEMORY
@pytest.mark.parametrize("proj", ["plain", "ref"])
def test_bfloat16_leaves_the_memory_in_float32(name, proj):
    decoder, aim = make(name, proj=proj).float(), target()
    seen = [Features(tuple(x.float() for x in f.levels), f.deepest.float()) for f in (features(), *past_of(decoder))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = decoder(seen[0], tuple(seen[1:]), aim.labels, aim)
    assert output.logits.dtype == torch.bfloat16
    assert {value.dtype for value in output.sums} == {torch.float32}
    output.logits.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in decoder.read.parameters())


def test_a_and_b_differ_in_what_the_paper_says_they_do():
    common = {field.name for field in dataclasses.fields(decoder_a.Config)}
    only_b = {field.name for field in dataclasses.fields(decoder_b.Config)} - common
    assert only_b == {"frames", "tma_key", "tma_value", "tma_scale", "memory_grad"}
