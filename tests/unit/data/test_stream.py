import itertools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vspw_files import make_vspw

from harness.common.errors import UnfitError, UsageError
from harness.data import stream as training_stream
from harness.data.datasets import vspw
from harness.data.datasets.synthetic import Config, Dataset
from harness.data.stream import TrainStream, loader

LISTS = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def stream(videos=4, offsets=(-2, -1, 0), seed=0, **options):
    data = Dataset(Config(train_videos=videos, height=16, width=24, objects=2, **options))
    return TrainStream(data, offsets=offsets, crop=16, short_side=16, seed=seed)


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


def test_a_sample_has_the_promised_form():
    sample = stream()[7]
    assert (sample.frames.shape, sample.frames.dtype) == ((3, 3, 16, 16), torch.uint8)
    assert (sample.labels.shape, sample.labels.dtype) == ((3, 16, 16), torch.uint8)
    assert 0 <= sample.key < 2**63
    assert sample.name.startswith("train_")
    assert sample.name.split("/")[0] == stream().video(7)


def test_a_sample_is_a_function_of_seed_and_position():
    ours = stream()
    forward = [ours[n] for n in range(6)]
    assert_equal(forward, [stream()[n] for n in reversed(range(6))][::-1])
    assert len({sample.key for sample in forward}) == 6
    assert stream(seed=1)[0].key != forward[0].key


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader(stream(), LISTS, 0))
    list(loader(stream(), LISTS, 2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [2, 3])
def test_batches_are_the_same_with_workers_and_from_the_middle(workers):
    ours = stream()
    alone = list(loader(ours, LISTS, 0))
    assert [batch.names for batch in alone] == [tuple(ours[n].name for n in positions) for positions in LISTS]
    assert alone[0].frames.shape == (3, 3, 3, 16, 16)
    assert alone[0].labels.shape == (3, 3, 16, 16)
    assert alone[0].keys.dtype == torch.int64
    assert_equal(alone, list(loader(stream(), LISTS, workers)))
    assert_equal(alone[2:], list(loader(stream(), LISTS[2:], workers)))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**64 - 1))
def test_each_video_is_seen_once_a_cycle(videos, cycle, seed):
    ours = stream(videos, seed=seed)
    assert sorted(ours.video(cycle * videos + n) for n in range(videos)) == list(ours.videos)


def test_cycles_differ_in_order():
    ours = stream(12)
    orders = {tuple(ours.video(cycle * 12 + n) for n in range(12)) for cycle in range(5)}
    assert len(orders) == 5


def test_a_split_smaller_than_the_batch_fills_it():
    (batch,) = loader(stream(2), [list(range(7))], 0)
    assert batch.frames.shape[0] == 7
    videos = [name.split("/")[0] for name in batch.names]
    assert all(set(videos[n : n + 2]) == {"train_0000", "train_0001"} for n in (0, 2, 4))


def test_all_frames_of_a_video_are_drawn():
    names = {stream(1, frames=4)[n].name for n in range(60)}
    assert names == {f"train_0000/{time:04d}" for time in range(4)}


def test_frames_are_the_offsets_clamped_to_the_first(monkeypatch):
    monkeypatch.setattr(training_stream, "augment", lambda images, labels, *rest: (images, labels))
    ours = stream(1, offsets=(-2, -1, 0), frames=4)
    seen = set()
    for n in range(40):
        sample = ours[n]
        current = int(sample.name.split("/")[1])
        for place, index in enumerate((max(0, current - 2), max(0, current - 1), current)):
            image, label = ours.dataset.read("train", "train_0000", f"{index:04d}")
            np.testing.assert_array_equal(sample.frames[place].permute(1, 2, 0).numpy(), image)
            np.testing.assert_array_equal(sample.labels[place].numpy(), label)
        seen.add(current)
    assert seen == {0, 1, 2, 3}


def test_negative_and_huge_seeds_are_seeds():
    assert stream(seed=-1)[0].key != stream(seed=1)[0].key
    assert stream(seed=2**63)[10**12].frames.shape == (3, 3, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_of_the_data_stays_one_line(tmp_path, workers):
    root = make_vspw(tmp_path)
    for path in root.glob("data/train_*/origin/*.jpg"):
        path.write_bytes(b"")
    ours = TrainStream(vspw.Dataset(vspw.Config(root=str(root))), crop=16, short_side=16, seed=0)
    with pytest.raises(UnfitError, match="0 bytes") as caught:
        list(loader(ours, LISTS, workers))
    assert "\n" not in str(caught.value)


def test_frames_of_unlike_sizes(tmp_path):
    root = make_vspw(tmp_path, {"train": 1}, frames=2)
    make_vspw(tmp_path / "other", {"train": 1}, frames=1, size=(16, 16))
    for folder, suffix in (("origin", "jpg"), ("mask", "png")):
        path = f"data/train_00000/{folder}/00000000.{suffix}"
        (tmp_path / "other" / path).replace(root / path)
    ours = TrainStream(vspw.Dataset(vspw.Config(root=str(root))), offsets=(-1, 0), crop=8, short_side=8, seed=0)
    with pytest.raises(UnfitError, match="differ in size"):
        [ours[n] for n in range(10)]


@pytest.mark.parametrize("options", [{"crop": 1, "short_side": 16}, {"crop": 16, "short_side": 3}])
def test_sizes_too_small_to_resize_to(options):
    with pytest.raises(UsageError, match=r"train\.(crop|short_side)="):
        TrainStream(Dataset(Config()), seed=0, **options)


def test_a_split_without_videos_or_labels():
    with pytest.raises(UnfitError, match="no video"):
        stream(0)
    unlabelled = TrainStream(Dataset(Config(height=16, width=16)), crop=16, short_side=16, seed=0, split="test")
    with pytest.raises(UnfitError, match="no labels"):
        unlabelled[0]


def slow_start(worker, real=training_stream.prepare_worker):
    time.sleep(0.5 * worker)  # the second one is still starting when the first batch is there
    real(worker)


@pytest.mark.parametrize("prepare", [training_stream.prepare_worker, slow_start])
def test_workers_outlive_signals_and_leave_with_the_loader(prepare, monkeypatch):
    monkeypatch.setattr(training_stream, "prepare_worker", prepare)
    endless = ([n, n + 1] for n in itertools.count(step=2))
    batches = loader(stream(), endless, 2)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    expected = list(loader(stream(), [[n, n + 1] for n in range(2, 20, 2)], 0))
    assert_equal(list(itertools.islice(batches, 9)), expected)
    assert all(worker.is_alive() for worker in workers)
    batches.close()
    assert not any(worker.is_alive() for worker in workers)
