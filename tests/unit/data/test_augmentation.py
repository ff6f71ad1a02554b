"""Against slow, obvious references: colorsys for HSV, a whole-frame resize for the geometry."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from harness.data import augmentation
from harness.data.augmentation import (
    augment,
    choose_box,
    distort,
    is_varied,
    resized,
    saturate,
    source_span,
    turn_hue,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def pixels(seed=0, count=400):
    """(3, 1, N) uint8: random colours, and the corners and greys of the cube."""
    rng = np.random.default_rng(seed)
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)] + [[v] * 3 for v in (1, 77)])
    return torch.from_numpy(np.concatenate([rng.integers(0, 256, (count, 3)), corners]).astype(np.uint8)).T[:, None]


def per_pixel(image, change):
    """Apply change(h, s, v) -> (h, s, v) to every pixel by colorsys."""
    out = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(value / 255 for value in pixel))))
        for pixel in image.flatten(1).T.tolist()
    ]
    return torch.tensor(out).T.reshape(image.shape) * 255


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.27, 1.5])
def test_saturate_scales_s_of_hsv(factor):
    image = pixels()
    expected = per_pixel(image, lambda h, s, v: (h, min(1, s * factor), v))
    assert (saturate(image, factor) - expected).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("turn", [-1 / 3, -0.1, -1 / 180, 0.0, 0.03, 17 / 180, 1 / 3])
def test_turn_hue_adds_to_h_of_hsv(turn):
    image = pixels()
    expected = per_pixel(image, lambda h, s, v: ((h + turn) % 1, s, v))
    assert (turn_hue(image, turn) - expected).abs().max() <= 0.5 + 1e-3
    assert (turn_hue(image, turn).int() - F.adjust_hue(image, turn).int()).abs().max() <= 2


def test_no_change_is_the_identity():
    image = pixels()
    assert torch.equal(saturate(image, 1.0), image)
    assert torch.equal(turn_hue(image, 0.0), image)


def slow_distort(image, rng):
    """mmseg's order in float64 per step, from the same draws."""

    def convert(x, alpha=1.0, beta=0.0):
        return (x.double() * alpha + beta).clamp(0, 255).floor().to(torch.uint8)

    if rng.random() < 0.5:
        image = convert(image, beta=rng.uniform(-32, 32))
    last = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    if contrast and not last:
        image = convert(image, alpha=contrast)
    if rng.random() < 0.5:
        factor = rng.uniform(0.5, 1.5)
        image = per_pixel(image, lambda h, s, v: (h, min(1, s * factor), v)).round().to(torch.uint8)
    if rng.random() < 0.5:
        turn = int(rng.integers(-18, 18)) / 180
        image = per_pixel(image, lambda h, s, v: ((h + turn) % 1, s, v)).round().to(torch.uint8)
    if contrast and last:
        image = convert(image, alpha=contrast)
    return image


@pytest.mark.parametrize("seed", range(12))
def test_distort_against_the_slow_form(seed):
    image = pixels(seed, count=60)
    fast, slow = distort(image, np.random.default_rng(seed)), slow_distort(image, np.random.default_rng(seed))
    assert fast.dtype == torch.uint8
    # contrast truncates: one level off before it stays at most two after it; a turn of hue amplifies by nothing
    assert (fast.int() - slow.int()).abs().max() <= 2


def test_distort_statistics():
    image = torch.full((3, 1, 1), 100, dtype=torch.uint8)
    rng = np.random.default_rng(0)
    grey = np.array([int(distort(image, rng)[0]) for _ in range(2000)])
    # on grey only brightness ±32 (p .5) and contrast × 0.5..1.5 (p .5) show: E = 100, a quarter of the draws unchanged
    assert abs(grey.mean() - 100) < 2
    assert abs((grey == 100).mean() - 0.25) < 0.04
    assert grey.min() >= 34
    assert grey.max() <= 198


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([64, 256, 512]), st.floats(0.5, 2))
def test_resized_fits_both_limits_and_keeps_the_ratio(height, width, short_side, ratio):
    new_height, new_width = resized((height, width), short_side, ratio)
    short, long = sorted((new_height, new_width))
    assert short <= int(short_side * ratio)
    assert long <= int(4 * short_side * ratio)
    assert short == int(short_side * ratio) or long == int(4 * short_side * ratio)
    factor = long / max(height, width)
    assert abs(short - min(height, width) * factor) <= 1 + 0.5 * min(height, width) / max(height, width)


def test_480p_is_resized_as_by_the_toolbox():
    assert resized((480, 853), 512, 1.0) == (512, 910)
    assert resized((480, 854), 512, 2.0) == (1024, 1822)


@given(st.integers(1, 600), st.integers(1, 1200), st.integers(1, 512), st.integers(0, 99))
def test_source_span_stays_in_the_frame(source, size, crop, seed):
    start, length = source_span(source, size, crop, np.random.default_rng(seed))
    assert start >= 0
    assert length >= 1
    assert start + length <= source
    assert abs(length - min(crop, size) * source / size) <= 1


def clip(frames=3, height=40, width=60, seed=0):
    """Images whose red and green encode the pixel's place, and labels that repeat the columns."""
    rows, columns = torch.meshgrid(torch.arange(height) * 6, torch.arange(width) * 4, indexing="ij")
    image = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    labels = torch.arange(frames)[:, None, None] * 0 + (columns // 40).to(torch.uint8)
    return image.expand(frames, -1, -1, -1).clone(), labels.to(torch.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_one_geometry_for_all_frames_and_the_labels(seed, monkeypatch):
    monkeypatch.setattr(augmentation, "distort", lambda image, rng: image)
    images, labels = clip()
    out, marks = augment(images, labels, 48, 40, np.random.default_rng(seed))
    assert (out == out[:1]).all()
    assert (marks == marks[:1]).all()
    inside = marks[0] != 255
    assert inside.any()
    # green is 4 × column and the label column // 10, so each label pixel must lie where its green says (± 1.5 pixels)
    column = out[0, 1][inside].float() / 4
    label = marks[0][inside].float()
    assert (column >= label * 10 - 1.5).all()
    assert (column <= label * 10 + 11.5).all()
    assert (out[0, :, ~inside] == torch.tensor([124, 116, 104])[:, None]).all()


@pytest.mark.parametrize("seed", range(6))
def test_geometry_against_a_resize_of_the_whole_frame(seed, monkeypatch):
    monkeypatch.setattr(augmentation, "distort", lambda image, rng: image)
    images, labels = clip(1)
    out, _ = augment(images, labels, 32, 40, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    height, width = resized((40, 60), 40, rng.uniform(0.5, 2))
    whole = F.resize(images, [height, width], antialias=False)
    for _ in range(augmentation.TRIES):
        state = rng.bit_generator.state
        top, left = (int(rng.integers(max(side - 32, 0) + 1)) for side in (height, width))
        rng.bit_generator.state = state
        _, box_height = source_span(40, height, 32, rng)
        _, box_width = source_span(60, width, 32, rng)
        y, x = min(round(top * 40 / height), 40 - box_height), min(round(left * 60 / width), 60 - box_width)
        if is_varied(labels[0, y : y + box_height, x : x + box_width]):
            break
    expected = whole[0, :, top : top + 32, left : left + 32]
    if rng.random() < 0.5:
        expected = expected.flip(-1)
    got = out[0, :, : expected.shape[1], : expected.shape[2]]
    # one source pixel is 6 levels along rows and 4 along columns; the box is rounded by at most one of them
    assert (got.int() - expected.int()).abs().max() <= 7


def test_colours_are_drawn_per_frame():
    images, labels = clip()
    out, _ = augment(images + 60, labels, 32, 40, np.random.default_rng(1))
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[1], out[2])


def test_mirroring_is_a_fair_coin(monkeypatch):
    monkeypatch.setattr(augmentation, "distort", lambda image, rng: image)
    images, labels = clip(1)
    rng = np.random.default_rng(0)
    mirrored = 0
    for _ in range(400):
        out, marks = augment(images, labels, 16, 40, rng)
        row = out[0, 1, 0][marks[0, 0] != 255].int()
        mirrored += int(row[0] > row[-1])
    assert 160 < mirrored < 240


@pytest.mark.parametrize(
    ("counts", "varied"),
    [
        ({0: 74, 1: 26}, True),
        ({0: 75, 1: 25}, False),
        ({0: 100}, False),
        ({255: 100}, False),
        ({0: 10, 255: 90}, False),
        ({0: 6, 3: 4, 255: 90}, True),
    ],
)
def test_is_varied_leaves_void_out(counts, varied):
    label = torch.cat([torch.full((count,), value, dtype=torch.uint8) for value, count in counts.items()])
    assert is_varied(label.reshape(10, 10)) is varied


def test_crops_avoid_one_class_where_they_can():
    label = torch.zeros(100, 100, dtype=torch.uint8)
    label[:, 70:] = 1  # of all 20-pixel crops less than a quarter are varied
    rng = np.random.default_rng(0)
    boxes = [choose_box(label, 100, 100, 20, rng) for _ in range(200)]
    varied = [is_varied(label[b.top : b.top + b.height, b.left : b.left + b.width]) for b in boxes]
    share = np.mean([5 < 70 - left < 15 for left in range(81)])
    expected = 1 - (1 - share) ** 10
    assert abs(np.mean(varied) - expected) < 0.1
    assert np.mean(varied) > 2 * share


def test_the_box_is_decided_on_the_current_frame(monkeypatch):
    images = torch.zeros(2, 3, 100, 100, dtype=torch.uint8)
    labels = torch.zeros(2, 100, 100, dtype=torch.uint8)
    labels[1, :, 70:] = 1  # only the current frame has two classes
    monkeypatch.setattr(augmentation, "SCALES", (1.0, 1.0))
    varied = {-1: 0, 0: 0}
    for seed in range(100):
        for place, clip_labels in ((-1, labels), (0, labels.flip(0))):
            _, marks = augment(images, clip_labels, 20, 100, np.random.default_rng(seed))
            varied[place] += int(is_varied(marks[place]))
    assert varied[-1] > 60  # ten tries at about one in nine
    assert varied[0] < 30  # as chance has it: the earlier frame decides nothing


def test_tries_are_limited_and_a_uniform_frame_is_fine():
    label = torch.full((30, 30), 3, dtype=torch.uint8)
    box = choose_box(label, 30, 30, 16, np.random.default_rng(0))
    assert (box.out_height, box.out_width) == (16, 16)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(2, 40), st.integers(4, 60), st.integers(0, 9)
)
def test_any_size_gives_a_full_crop(frames, height, width, crop, short_side, seed):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (frames, 3, height, width), dtype=np.uint8))
    labels = torch.from_numpy(rng.choice(np.array([0, 1, 5, 255], np.uint8), (frames, height, width)))
    before = torch.get_rng_state()
    out, marks = augment(images, labels, crop, short_side, rng)
    assert torch.equal(torch.get_rng_state(), before)
    assert (out.shape, marks.shape) == ((frames, 3, crop, crop), (frames, crop, crop))
    assert out.dtype == marks.dtype == torch.uint8
    assert type(out) is type(marks) is torch.Tensor
    assert set(marks.unique().tolist()) <= {0, 1, 5, 255}
