"""Exact: Eqs 5-6 against the oracle; the histogram form against the dense one in values, gradients and statistics."""

import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.contract import VOID
from models.layers.context_read import ContextRead, CountedNorm, _attend, class_counts, to_grid


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def plain_read(weights, channels):
    read = ContextRead(channels, "plain").double()
    layers = {"q": read.query, "k": read.keys.linears[0], "v": read.values.linears[0], "o": read.out}
    for name, layer in layers.items():
        layer.weight.data = tensor(weights[name]["W"]).view_as(layer.weight)
        layer.bias.data = tensor(weights[name]["b"])
    return read


def both(read, source, rows, mask, initialised=None):
    """C_bi (N, C) by the two forms, for one image of one row."""
    initialised = torch.ones(len(rows), dtype=torch.bool) if initialised is None else initialised
    query = read.query(source)
    readable = torch.where(initialised[mask.clamp_max(len(rows) - 1)], mask, VOID)
    return [
        value[0, :, 0].T
        for value in (read(query, rows, class_counts(mask, initialised)), read.dense(query, rows, readable))
    ]


def image(rows):
    return tensor(rows).T[None, :, None]


def mask_of(labels):
    return torch.tensor(labels)[None, None]


@pytest.mark.parametrize("key", ["P", "P_permuted"])
def test_basic_case_of_the_oracle(oracle, key):
    given, expected = oracle["basic"]["inputs"], oracle["basic"]["expected"]
    read, rows = plain_read(given["g"], 2), tensor(expected["M_t"])
    mask = mask_of(given["P"] if key == "P" else expected["P_permuted"])
    for value in both(read, image(given["R"]), rows, mask):
        torch.testing.assert_close(value, tensor(expected["C_bi_void_masked"]), rtol=0, atol=1e-11)
        torch.testing.assert_close(value, tensor(expected["C_bi_from_histogram"]), rtol=0, atol=1e-11)


def test_attention_weights_of_the_oracle(oracle):
    given, expected = oracle["basic"]["inputs"], oracle["basic"]["expected"]
    read, rows = plain_read(given["g"], 2), tensor(expected["M_t"])
    mask = torch.tensor(given["P"])
    valid = (mask != VOID)[None]
    gathered = rows[mask.where(valid[0], torch.tensor(0))]
    scores = read.query(image(given["R"])).flatten(2).mT @ read.keys(gathered, valid[0].double()).T * read.scale
    bias = torch.zeros(1, 1, 8, dtype=torch.float64).masked_fill(~valid[:, None], -torch.inf)
    weights = _attend(scores, bias, valid, torch.eye(8, dtype=torch.float64))[0]
    torch.testing.assert_close(weights, tensor(expected["O_void_masked"]), rtol=0, atol=1e-11)


def test_attention_scale_case_of_the_oracle(oracle):
    given, expected = oracle["attention_scale"]["inputs"], oracle["attention_scale"]["expected"]
    read = plain_read(given["g"], 4)
    for value in both(read, image(given["R"]), tensor(given["M"]), mask_of(given["P"])):
        torch.testing.assert_close(value, tensor(expected["C_bi"]), rtol=0, atol=1e-11)


@st.composite
def reads(draw):
    """A read with masks that name few classes, void, rows never set, or nothing at all."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    batch, classes, channels = draw(st.integers(1, 3)), draw(st.integers(1, 5)), 2 * draw(st.integers(1, 4))
    height, width = draw(st.integers(2, 4)), draw(st.integers(1, 4))
    read = ContextRead(channels, draw(st.sampled_from(["plain", "ref"]))).double()
    for module in read.modules():
        # at bias 0 a lone class sits on ReLU's kink, where no gradient is defined
        if isinstance(module, CountedNorm | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.2, 1)
    read.train(draw(st.booleans()))
    rows = torch.randn(classes, channels, dtype=torch.float64)
    initialised = torch.rand(classes) < draw(st.sampled_from([0, 0.5, 1, 1]))
    mask = torch.randint(0, classes, (batch, height, width))
    mask[torch.rand(mask.shape) < draw(st.sampled_from([0, 0.3, 1]))] = VOID
    if draw(st.booleans()):
        mask[0] = VOID
    return read, torch.randn(batch, channels, height, width, dtype=torch.float64), rows, initialised, mask


@settings(max_examples=150, deadline=None)
@given(reads())
def test_the_histogram_form_is_exact(case):
    read, source, rows, initialised, mask = case
    dense = copy.deepcopy(read)
    readable = torch.where(initialised[mask.clamp_max(len(rows) - 1)], mask, VOID)
    outcomes = []
    for module, use in (
        (read, lambda query: read(query, rows, class_counts(mask, initialised))),
        (dense, lambda query: dense.dense(query, rows, readable)),
    ):
        leaf = source.clone().requires_grad_()
        value = use(module.query(leaf))
        value.mul(torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view_as(value)).sum().backward()
        grads = {name: parameter.grad for name, parameter in module.named_parameters()}
        outcomes.append((value, leaf.grad, grads, dict(module.named_buffers())))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outcomes[0][1:], outcomes[1][1:], rtol=1e-9, atol=1e-9)
    assert torch.isfinite(outcomes[0][0]).all()
    assert all(torch.isfinite(grad).all() for grad in outcomes[0][2].values())


@pytest.mark.parametrize("projection", ["plain", "ref"])
@pytest.mark.parametrize("form", ["histogram", "dense"])
def test_where_all_is_masked_the_context_is_zero_and_gradients_exist(projection, form):
    read = ContextRead(4, projection).double()
    query = read.query(torch.randn(2, 4, 3, 3, dtype=torch.float64))
    rows = torch.randn(3, 4, dtype=torch.float64)
    if form == "dense":
        value = read.dense(query, rows, torch.full((2, 3, 3), VOID))
    else:
        value = read(query, rows, torch.zeros(2, 3))
    torch.testing.assert_close(value, copy.deepcopy(read.out)(torch.zeros_like(query)))
    value.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in read.parameters())


@pytest.mark.parametrize("projection", ["plain", "ref"])
def test_only_how_often_a_class_occurs_in_p_matters(projection):
    read = ContextRead(6, projection).double().eval()
    rows, some = torch.randn(4, 6, dtype=torch.float64), torch.ones(4, dtype=torch.bool)
    query = read.query(torch.randn(1, 6, 4, 5, dtype=torch.float64))
    mask = torch.randint(0, 4, (1, 4, 5))
    shuffled = mask.flatten()[torch.randperm(20)].view_as(mask)
    value = read(query, rows, class_counts(mask, some))
    assert torch.equal(value, read(query, rows, class_counts(shuffled, some)))
    torch.testing.assert_close(value, read.dense(query, rows, shuffled))
    other = mask.clone()
    other[0, 0] = (mask[0, 0] + 1) % 4
    assert not torch.allclose(value, read(query, rows, class_counts(other.sort(1).values.fill_(0), some)))


def test_counts_leave_out_void_and_rows_never_set():
    mask = torch.tensor([[[0, 0, 2], [255, 1, 1]], [[255, 255, 255], [255, 255, 255]]])
    counts = class_counts(mask, torch.tensor([True, False, True]))
    assert counts.tolist() == [[2, 0, 1], [0, 0, 0]]


def test_a_mask_is_brought_to_the_grid_by_the_nearest_pixel():
    mask = torch.arange(16).view(1, 4, 4).to(torch.uint8)
    assert to_grid(mask, (2, 2)).tolist() == [[[0, 2], [8, 10]]]
    assert to_grid(mask, (4, 4)).tolist() == mask.long().tolist()


@pytest.mark.parametrize("training", [True, False])
def test_counted_norm_equals_batch_norm_of_the_repeated_rows(training):
    counts = torch.tensor([3, 0, 1, 5])
    rows = torch.randn(4, 6, dtype=torch.float64)
    ours, theirs = CountedNorm(6).double().train(training), nn.BatchNorm1d(6).double().train(training)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    for _ in range(3):
        value, expected = ours(rows, counts), theirs(rows.repeat_interleave(counts, dim=0))
        torch.testing.assert_close(value.repeat_interleave(counts, dim=0), expected)
        rows = rows * 2 + 1
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_counted_norm_keeps_its_statistics_where_nothing_is_counted():
    norm = CountedNorm(2)
    value = norm(torch.randn(3, 2), torch.zeros(3))
    assert torch.isfinite(value).all()
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert torch.equal(norm.running_var, torch.ones(2))


def test_two_ranks_normalise_as_one():
    rows = torch.randn(4, 3, dtype=torch.float64)
    counts = torch.tensor([[2, 0, 1, 4], [0, 3, 1, 1]], dtype=torch.float64)
    barrier, slots, found = threading.Barrier(2), [None, None], [None, None]

    def rank(index, norm):
        def all_sum(value):
            slots[index] = value
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        norm.all_sum = all_sum
        found[index] = norm(rows, counts[index])

    norms = [CountedNorm(3).double() for _ in range(2)]
    threads = [threading.Thread(target=rank, args=(index, norms[index])) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    whole = CountedNorm(3).double()
    expected = whole(rows, counts.sum(0))
    for index in range(2):
        torch.testing.assert_close(found[index], expected)
        torch.testing.assert_close(norms[index].running_var, whole.running_var)


def test_the_read_stays_float32_under_autocast():
    read = ContextRead(4, "ref").eval()
    rows, some = torch.randn(3, 4), torch.ones(3, dtype=torch.bool)
    source, mask = torch.randn(1, 4, 4, 4), torch.randint(0, 3, (1, 4, 4))
    query = read.query(source)
    seen = []
    read.out.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    read(query, rows, class_counts(mask, some))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read(query, rows, class_counts(mask, some))
    assert seen[1].dtype == torch.float32
    assert torch.equal(seen[0], seen[1])
