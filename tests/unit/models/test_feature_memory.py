"""Exact: Eqs 1-4 against the independent oracle, and the two forms of the class sums against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract import VOID, Target
from models.layers.feature_memory import (
    NORM_EPS,
    ClassSums,
    FeatureMemory,
    class_sums,
    class_sums_dense,
    draw_places,
    representation,
    update,
)

FORMS = pytest.mark.parametrize("form", [class_sums, class_sums_dense])


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def line(rows, labels):
    """Pixels as one image of one row, labels on the same grid."""
    return tensor(rows).T[None, :, None], torch.tensor(labels)[None, None]


def assert_close(value, expected, bound=1e-11):
    torch.testing.assert_close(value, tensor(expected), rtol=0, atol=bound)


def moved(memory, sums, momentum, initialised=None, init="first_seen_mean"):
    initialised = torch.ones(len(memory), dtype=torch.bool) if initialised is None else torch.tensor(initialised)
    return update(memory, initialised, sums, momentum, init)


def kept(memory, sums):
    """R' as the paper has it: rows of absent classes are the memory's."""
    return torch.where(sums.pixels[:, None] > 0, representation(sums), memory)


@FORMS
def test_basic_case_of_the_oracle(oracle, form):
    given, expected = oracle["basic"]["inputs"], oracle["basic"]["expected"]
    memory = tensor(given["M_prev"])
    sums = form(*line(given["R"], given["GT"]), memory)
    assert_close(kept(memory, sums), expected["R_prime"])
    assert_close(moved(memory, sums, given["m"]), expected["M_t"])
    similarities = [sum(1 - s for s in expected["S"][str(k)]) for k in range(3)]
    assert_close(sums.weight, similarities)


@FORMS
def test_upsampled_case_of_the_oracle(oracle, form):
    given, expected = oracle["upsampled"]["inputs"], oracle["upsampled"]["expected"]
    memory = tensor(given["M"])
    features = tensor(given["X_2x2"]).T.reshape(1, 2, 2, 2)
    sums = form(features, torch.tensor(given["GT_4x4"]).view(1, 4, 4), memory)
    assert_close(kept(memory, sums), expected["R_prime"])
    assert_close(moved(memory, sums, given["m"]), expected["M_t"])


@FORMS
@pytest.mark.parametrize(
    "case",
    ["single_pixel", "all_S_equal_1", "single_pixel_S_equal_1", "zero_memory_row", "zero_pixel", "opposite_pixel"],
)
def test_degenerate_cases_of_the_oracle(oracle, form, case):
    given = oracle["degenerate"][case]
    memory = tensor(given["M"])
    assert_close(kept(memory, form(*line(given["R"], given["GT"]), memory)), given["R_prime"])


@FORMS
def test_a_batch_of_void_moves_nothing(oracle, form):
    given = oracle["degenerate"]["all_ignored"]
    memory = tensor(given["M"])
    sums = form(*line(given["R"], given["GT"]), memory)
    assert_close(moved(memory, sums, 0.9), given["M_t"])
    assert sums.pixels.sum() == 0


@FORMS
def test_first_sight_sets_the_mean(oracle, form):
    given = oracle["degenerate"]["first_sight"]
    memory = tensor(given["M"])
    sums = form(*line(given["R"], given["GT"]), memory)
    assert_close(moved(memory, sums, given["m"], given["initialised"]), given["M_t"])


@FORMS
def test_sums_of_two_ranks_are_one_batch(oracle, form):
    given, expected = oracle["two_ranks"]["inputs"], oracle["two_ranks"]["expected"]
    memory = tensor(given["M"])
    ranks = [form(*line(given[rank]["R"], given[rank]["GT"]), memory) for rank in ("rank0", "rank1")]
    result = moved(memory, ranks[0].merge(ranks[1]), given["m"])
    assert_close(result, expected["M_t_sum_reduce"])
    assert not torch.allclose(result, tensor(expected["M_t_mean_of_local"]))


def test_a_pixel_loop_written_from_the_paper_agrees():
    features = torch.randn(2, 3, 2, 3, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 5, 7))
    labels[0, 0] = VOID
    memory = torch.randn(4, 3, dtype=torch.float64)
    upsampled = torch.nn.functional.interpolate(features, size=(5, 7), mode="bilinear", align_corners=False)
    expected = memory.clone()
    for k in range(4):
        pixels = [upsampled[b, :, y, x] for b in range(2) for y in range(5) for x in range(7) if labels[b, y, x] == k]
        weights = [1 - torch.dot(r, memory[k]) / (r.norm() * memory[k].norm()) for r in pixels]  # Eq 3
        expected[k] = sum(w * r for w, r in zip(weights, pixels, strict=True)) / sum(weights)  # Eq 4
    torch.testing.assert_close(kept(memory, class_sums(features, labels, memory)), expected, rtol=0, atol=1e-11)


@st.composite
def batches(draw):
    """A memory, features and labels with what breaks Eq 4 mixed in: zeros, collinear pixels, void, absent classes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    side = st.integers(1, 6)
    batch, channels, classes = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    features = torch.randn(batch, channels, draw(side), draw(side), dtype=torch.float64, generator=generator)
    memory = torch.randn(classes, channels, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes + 1, (batch, draw(side) * 2, draw(side) * 2), generator=generator)
    labels[labels == classes] = VOID
    kind = draw(st.sampled_from(["random", "collinear", "nearly", "zero_row", "zero_image", "relu", "all_void"]))
    if kind in ("collinear", "nearly"):
        lengths = torch.rand(batch, 1, *features.shape[2:], dtype=torch.float64, generator=generator) + 0.1
        noise = features * (10.0 ** draw(st.integers(-7, -1)) if kind == "nearly" else 0)
        features = memory[0].view(1, -1, 1, 1) * lengths + noise
    elif kind == "zero_row":
        memory[0] = 0
    elif kind == "zero_image":
        features[0] = 0
    elif kind == "relu":
        features, memory = features.relu(), memory.relu()
    elif kind == "all_void":
        labels[:] = VOID
    return features, labels, memory


@FORMS
def test_a_pixel_of_zeros_resembles_nothing_however_its_place_rounds(form):
    # 0.2 * 2.5 - 0.5 is 0 or, multiplied and subtracted at once as torch may, 3e-17: a share of the row below
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64).T.reshape(1, 2, 2, 1)
    labels = torch.full((1, 10, 1), VOID)
    labels[0, 2] = 0
    assert form(features, labels, torch.tensor([[1.0, 0.0]], dtype=torch.float64)).weight.item() == 1


def digits_lost(features, labels, classes):
    """By how much cells of opposite signs cancel in a class's pixels at most; never more than 4 after a ReLU.  # (K,)

    The dense form rounds a pixel, the other the products of its cells, so the squared length loses what cancels.
    """
    up = torch.nn.functional.interpolate(features, size=labels.shape[1:], mode="bilinear").square().sum(1)
    cells = features.square().sum(1, keepdim=True)
    lost = torch.nn.functional.interpolate(cells, size=labels.shape[1:], mode="bilinear")[:, 0] / up
    lost = torch.where(up > NORM_EPS**2, lost, 1)
    return torch.stack([lost.where(labels == k, 1).max() for k in range(classes)])


@settings(max_examples=150, deadline=None)
@given(batches(), st.integers(0, 1000))
def test_the_low_memory_form_is_exact(batch, key):
    features, labels, memory = batch
    places = draw_places(labels, torch.arange(len(labels)) + key, torch.ones(len(memory), dtype=torch.bool))
    fast, dense = class_sums(features, labels, memory, places), class_sums_dense(features, labels, memory, places)
    for name in ("pixels", "plain", "drawn"):
        torch.testing.assert_close(getattr(fast, name), getattr(dense, name), rtol=0, atol=1e-10)
    loss = digits_lost(features, labels, len(memory))
    weight = torch.maximum(dense.weight, fast.weight) / dense.pixels.clamp_min(1)  # the class's mean weight
    sound = (weight <= 1e-12) | (weight >= 1e-2)
    bound = torch.where(sound, 1e-10, 1e-10 / weight.clamp_min(1e-12).square()) + 1e-15 * loss
    assert ((kept(memory, fast) - kept(memory, dense)).abs() <= bound[:, None]).all()
    assert torch.isfinite(kept(memory, fast)).all()


@settings(max_examples=40, deadline=None)
@given(batches())
def test_parts_of_a_batch_merge_to_the_batch(batch):
    features, labels, memory = batch
    keys, wanted = torch.arange(len(labels)) + 5, torch.ones(len(memory), dtype=torch.bool)

    def of(part):
        return class_sums(features[part], labels[part], memory, draw_places(labels[part], keys[part], wanted))

    merged = of(slice(0, 1))
    for sample in range(1, len(labels)):
        merged = merged.merge(of(slice(sample, sample + 1)))
    for part, whole in zip(merged, of(slice(None)), strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-10)


def test_float32_never_divides_nothing_by_nothing():
    memory = torch.randn(20, 64)
    labels = torch.arange(20).view(1, 1, 20).expand(1, 8, 20).contiguous()
    features = (memory[labels].permute(0, 3, 1, 2) * (torch.rand(1, 1, 8, 20) + 0.1)).contiguous()
    result = representation(class_sums(features, labels, memory))
    mean = features.mean(dim=2)[0].T
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result, mean, rtol=1e-4, atol=1e-4)  # weights are rounding errors: the mean is taken


def test_a_draw_is_a_pixel_of_the_first_sample_that_holds_the_class():
    labels = torch.full((3, 4, 4), VOID)
    labels[1, 1:3] = 0
    labels[2] = 0
    labels[2, 0] = 1
    keys = torch.tensor([3, 4, 5])
    drawn = torch.stack([draw_places(labels, keys + i, torch.tensor([True, True, True])) for i in range(300)])
    assert set(drawn[:, 0].tolist()) == {16 + i for i in range(4, 12)}  # every pixel of sample 1, none of sample 2
    assert set(drawn[:, 1].tolist()) == {32, 33, 34, 35}
    assert set(drawn[:, 2].tolist()) == {-1}
    assert draw_places(labels, keys, torch.tensor([False, True, True]))[0] == -1
    alone = draw_places(labels[1:2], keys[1:2], torch.tensor([True, True, True]))
    assert alone[0] + 16 == draw_places(labels, keys, torch.tensor([True, True, True]))[0]


def test_random_pixel_sets_the_drawn_pixel_once_and_blends_later():
    memory = FeatureMemory(3, 4, "random_pixel").double()
    features = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    target = Target(torch.tensor([[[0, 0], [0, 255]], [[1, 0], [255, 255]]]), torch.tensor([7, 8]))
    first = memory.sums(features, target)
    memory.update(first, 0.9)
    pixels = features.permute(0, 2, 3, 1)
    assert any(torch.allclose(memory.rows[0], pixels[0].flatten(0, 1)[i]) for i in range(3))
    torch.testing.assert_close(memory.rows[1], pixels[1, 0, 0])
    assert memory.initialised.tolist() == [True, True, False]
    before = memory.rows.clone()
    second = memory.sums(features, target)
    memory.update(second, 0.25)
    torch.testing.assert_close(memory.rows[:2], (0.75 * before + 0.25 * representation(second))[:2])
    assert torch.equal(memory.rows[2], before[2])


@pytest.mark.parametrize("init", ["random_pixel", "first_seen_mean"])
def test_only_classes_seen_move(init):
    memory = FeatureMemory(5, 3, init)
    memory.rows.normal_()
    memory.initialised[:3] = True
    before = memory.rows.clone()
    labels = torch.tensor([1, 3, 255]).repeat(2, 4, 1)
    memory.update(memory.sums(torch.randn(2, 3, 2, 2), Target(labels, torch.tensor([1, 2]))), 0.5)
    changed = (memory.rows != before).any(1)
    assert changed.tolist() == [False, True, False, True, False]
    assert memory.initialised.tolist() == [True, True, True, True, False]


def test_the_memory_stays_float32_under_autocast():
    memory = FeatureMemory(2, 4, "first_seen_mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.randn(1, 4, 2, 2).bfloat16()
        sums = memory.sums(features, Target(torch.zeros(1, 4, 4, dtype=torch.int64), torch.tensor([0])))
        memory.update(sums, 0.5)
    assert all(value.dtype == torch.float32 for value in sums)
    dense = class_sums_dense(features.float(), torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(2, 4))
    torch.testing.assert_close(memory.rows[0], (dense.plain[0] / 16))


def test_sums_are_repeatable_to_the_bit():
    features, memory = torch.randn(2, 8, 6, 6), torch.randn(4, 8)
    labels = torch.randint(0, 4, (2, 48, 48))
    first, second = class_sums(features, labels, memory), class_sums(features, labels, memory)
    assert isinstance(first, ClassSums)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
