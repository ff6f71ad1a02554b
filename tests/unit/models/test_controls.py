"""Controls of the decoders: what is taken away is away, and the rest is as it was, against slow code."""

import dataclasses
import json
import types

import pytest
import torch
from test_models_decoders import BATCH, CHANNELS, CLASSES, features, make, past_of, target, taught

from models.contract import VOID, Features
from models.decoders import decoder_a, decoder_b, upernet
from models.layers.head import resize

MEMORY = pytest.mark.parametrize("name", ["decoder_a", "decoder_b"])


def seen(decoder):
    """A cache, the frames that it was made of, and a mask."""
    current, past = features(), past_of(decoder)
    return decoder.encode(current, past), current, past, target().labels


def slowly(decoder, cache, rows, mask):
    """Logits by Eqs 5-6 as written, over the positions of a mask (B, h, w) on R's grid."""
    return joined(decoder, cache, decoder.read.dense(cache.query, rows, mask))


def joined(decoder, cache, beyond):
    whole = cache.within + decoder.fuse_beyond(resize(beyond, cache.within.shape[2:]))
    return decoder.classifier(decoder.fuse_norm(whole))


@MEMORY
def test_without_context_the_logits_are_those_of_c_wi(name):
    decoder = taught_without_memory(name, "no_context")
    cache, *_, mask = seen(decoder)
    expected = decoder.classifier(decoder.fuse_norm(cache.within))
    assert torch.equal(decoder.predict(cache, mask), expected)
    assert torch.equal(decoder.predict(cache), expected)


@MEMORY
def test_without_memory_r_itself_is_joined(name):
    decoder = taught_without_memory(name, "no_memory")
    cache, current, past, mask = seen(decoder)
    expected = joined(decoder, cache, decoder.read.out(decoder.read.query(decoder._source(current, past))))
    assert torch.equal(decoder.predict(cache, mask), expected)


def taught_without_memory(name, control):
    """In eval mode after a step, whose sums are None; nothing of P is asked for, no parameter lacks its gradient."""
    decoder, aim = make(name, control=control), target()
    assert decoder.prior == "none"
    output = decoder(features(), past_of(decoder), None, aim)
    assert output.sums is None
    sum(logits.sum() for logits in (output.logits, *(part.logits for part in output.auxiliary))).backward()
    assert all(value.grad is not None for value in decoder.parameters() if value.requires_grad)
    assert any(not value.requires_grad for value in decoder.read.parameters())
    keys = [decoder.prior_key(seen(decoder)[0], mask) for mask in (None, aim.labels)]
    assert torch.equal(*keys)
    return decoder.eval()


@MEMORY
def test_random_rows_stay_and_are_read(name):
    decoder = make(name, control="random_memory")
    before = decoder.memory.rows.clone()
    assert decoder.memory.initialised.all()
    assert before.std() > 0.5
    assert decoder(features(), past_of(decoder), None, target()).sums is None  # so the trainer moves nothing
    assert torch.equal(decoder.memory.rows, before)
    decoder.eval()
    cache, *_, mask = seen(decoder)
    grid = mask[:, ::8, ::8]  # nearest, from 64 to 8
    torch.testing.assert_close(decoder.predict(cache, mask), slowly(decoder, cache, before.double(), grid))


@MEMORY
def test_permuted_rows_are_those_of_another_class_and_of_none_that_was_not_seen(name):
    decoder = taught(name)
    cache, *_, mask = seen(decoder)
    plain, rows = decoder.predict(cache, mask), decoder.memory.rows.clone()
    decoder.control = "permuted_memory"
    permuted = decoder.memory.permuted()
    whose = [[torch.equal(row, own) for own in rows].index(True) for row in permuted]
    assert sorted(whose[:-1]) == list(range(CLASSES - 1))
    assert all(own != other for own, other in enumerate(whose[:-1]))
    assert whose[-1] == CLASSES - 1  # never seen
    grid = mask[:, ::8, ::8]
    torch.testing.assert_close(decoder.predict(cache, mask), slowly(decoder, cache, permuted, grid))
    assert not torch.allclose(decoder.predict(cache, mask), plain)
    assert torch.equal(decoder.memory.rows, rows)


@MEMORY
def test_a_uniform_prior_names_every_class_that_was_seen_once(name):
    decoder = taught(name)
    decoder.control = "uniform_prior"
    cache, *_, mask = seen(decoder)
    each = torch.arange(CLASSES - 1).view(1, 1, -1).expand(BATCH, -1, -1)
    expected = slowly(decoder, cache, decoder.memory.rows, each)
    for prior in (None, mask, torch.full_like(mask, VOID)):
        torch.testing.assert_close(decoder.predict(cache, prior), expected)
        assert torch.equal(decoder.prior_key(cache, prior), decoder.memory.initialised.double().expand(BATCH, -1))


def test_the_current_frame_stands_for_its_past():
    decoder = taught("decoder_b", frames=3)
    current, mask = features(), target().labels
    itself = Features(current.levels, current.deepest)
    expected = decoder.predict(decoder.encode(current, (itself,) * 3), mask)
    decoder.control = "current_past"
    assert torch.equal(decoder.predict(decoder.encode(current, past_of(decoder)), mask), expected)
    trained = make("decoder_b", control="current_past")
    assert trained.past == (-2, -1)
    assert trained(features(), past_of(trained), None, target()).sums is not None


@pytest.mark.parametrize("other", [decoder_a, decoder_b])
def test_upernet_is_as_large_as_another_decoder_and_no_larger_than_it_must_be(other):
    def parameters(decoder):
        return sum(value.numel() for value in decoder.parameters())

    name, options = other.__name__.rpartition(".")[2], {"channels": 16, "aux_channels": 8, "memory_channels": 24}
    large = parameters(other.Decoder(CHANNELS, 9, CLASSES, other.Config(**options)))
    config = upernet.Config(16, 8, json.dumps({"name": name, "config": options}))
    state = torch.get_rng_state()
    width = upernet.wide(CHANNELS, 9, CLASSES, config)
    assert torch.equal(torch.get_rng_state(), state)
    found, narrower = (
        parameters(upernet.Decoder(CHANNELS, 9, CLASSES, upernet.Config(side, 8))) for side in (width, width - 1)
    )
    assert narrower < large <= found
    assert parameters(upernet.Decoder(CHANNELS, 9, CLASSES, config)) == found


@pytest.mark.parametrize("module", [upernet, decoder_a, decoder_b])
def test_a_derived_decoder_may_have_a_config_of_before(module):
    old = {field.name: getattr(module.Config(), field.name) for field in dataclasses.fields(module.Config)}
    config = types.SimpleNamespace(**{name: old[name] for name in old if name not in ("control", "as_large_as")})
    decoder = module.Decoder(CHANNELS, CHANNELS[-1], CLASSES, config)
    assert getattr(decoder, "control", None) is None
