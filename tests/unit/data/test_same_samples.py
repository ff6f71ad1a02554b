"""Samples are what they were, bit by bit, before colours and labels were computed in fewer and smaller passes.

The forms of before are below: to be deleted when a VERSION of the augmentation or of the data set is raised.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F
from vspw_files import make_vspw

from harness.data import augmentation
from harness.data.augmentation import PIXELS, brightest, distort, turn_hue
from harness.data.datasets import vspw
from harness.data.stream import TrainStream


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def former_distort(image, rng):
    if rng.random() < 0.5:
        image = image.add(rng.uniform(-32.0, 32.0)).clamp_(0, 255).to(torch.uint8)
    contrast_last = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    if contrast is not None and not contrast_last:
        image = F.adjust_brightness(image, contrast)
    if rng.random() < 0.5:
        image = former_saturate(image, rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        image = former_turn_hue(image, int(rng.integers(-18, 18)) / 180)
    if contrast is not None and contrast_last:
        image = F.adjust_brightness(image, contrast)
    return image


def former_saturate(image, factor):
    value, chroma = brightest(image)
    most = value / chroma.clamp_min(1)
    distance = (value - image).mul_(most.clamp_max_(factor))
    return torch.sub(value + 0.5, distance, out=distance).to(torch.uint8)


def former_turn_hue(image, turn):
    red, green, blue = image.float()
    value, chroma = brightest(image)
    safe = chroma.clamp_min(1)
    hue = torch.where(value == green, (blue - red).div_(safe).add_(2), (red - green).div_(safe).add_(4))
    hue = torch.where(value == red, (green - blue).div_(safe), hue)
    out = torch.empty_like(image)
    for channel, offset in enumerate((5, 3, 1)):
        sixth = hue.add(offset + 6 * turn).remainder_(6)
        share = torch.minimum(sixth, 4 - sixth).clamp_(0, 1)
        out[channel] = torch.addcmul(value, chroma, share, value=-1).add_(0.5)
    return out


def former_map_labels(mask, num_classes):
    table = np.full(256, 255, np.uint8)
    table[1 : num_classes + 1] = np.arange(num_classes, dtype=np.uint8)
    clean = np.zeros(256, bool)
    clean[: num_classes + 1] = clean[255] = True
    if mask.dtype == np.uint8:
        label, dirty = table[mask], ~clean[mask]
    else:
        inside = (mask >= 0) & (mask <= 255)
        index = np.where(inside, mask, 255).astype(np.uint8)
        label, dirty = table[index], ~(clean[index] & inside)
    values, counts = np.unique(mask[dirty], return_counts=True)
    return label, Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def every_hue():
    """(3, 1, N): each chroma with each place of the middle channel, in each order of the channels, dark and bright."""
    chroma, middle = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    possible = middle <= chroma
    low, middle, high = torch.zeros(int(possible.sum()), dtype=torch.int64), middle[possible], chroma[possible]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    dark = torch.cat([torch.stack([(low, middle, high)[place] for place in order]) for order in orders], dim=1)
    return torch.cat([dark, dark + 255 - dark.amax(0)], dim=1)[:, None].to(torch.uint8)


def test_a_turned_hue_is_the_same_for_every_hue_and_turn():
    colours = every_hue()
    for turn in range(-augmentation.HUE, augmentation.HUE):
        assert torch.equal(turn_hue(colours, turn / 180), former_turn_hue(colours, turn / 180)), turn


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (331, 401), (512, 512)])
def test_distorted_colours_are_the_same_in_parts_as_in_one(size):
    assert size[0] * size[1] < 300 or size[0] * size[1] > 2 * PIXELS
    generator = np.random.default_rng(size)
    image = torch.from_numpy(generator.integers(0, 256, (3, *size), dtype=np.uint8))
    for seed in range(24):
        rng, former = np.random.default_rng(seed), np.random.default_rng(seed)
        assert torch.equal(distort(image, rng), former_distort(image, former))
        assert rng.bit_generator.state == former.bit_generator.state


@pytest.mark.parametrize("stored", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("classes", [1, 11, 124, 253, 254])
def test_labels_are_the_same(stored, classes):
    rng = np.random.default_rng(classes)
    top = 255 if stored is np.uint8 else 300
    for mask in (
        rng.integers(0, top + 1, (33, 47)).astype(stored),
        rng.choice([*range(classes + 1), 255], (33, 47)).astype(stored),
        rng.integers(0, top + 1, (33, 47)).astype(stored).T,
    ):
        label, dirty = vspw.map_labels(mask, classes)
        expected, former_dirty = former_map_labels(mask, classes)
        assert label.dtype == expected.dtype
        assert label.flags.writeable
        np.testing.assert_array_equal(label, expected)
        assert dirty == former_dirty


@pytest.mark.parametrize("offsets", [(0,), (-2, -1, 0)])
def test_whole_samples_are_the_same(tmp_path, monkeypatch, offsets):
    root = make_vspw(tmp_path / "data", {"train": 3, "val": 1, "test": 1}, size=(120, 213), classes=20)

    def samples():
        dataset = vspw.Dataset(vspw.Config(root=str(root)))
        stream = TrainStream(dataset, offsets=offsets, crop=128, short_side=128, seed=1)
        return [stream[position] for position in range(12)]

    now = samples()
    monkeypatch.setattr(augmentation, "distort", former_distort)
    monkeypatch.setattr(vspw, "map_labels", former_map_labels)
    for sample, former in zip(now, samples(), strict=True):
        assert torch.equal(sample.frames, former.frames)
        assert torch.equal(sample.labels, former.labels)
        assert (sample.key, sample.name) == (former.key, former.name)
