import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from harness.common.errors import UnfitError, UsageError
from harness.data.datasets import synthetic
from harness.data.datasets.synthetic import Config, Dataset


def checksum(data, split, video, frame):
    made = data.read(split, video, frame)
    return zlib.crc32(made.image.tobytes() + made.label.tobytes())


def test_videos_and_frames_follow_the_options():
    data = Dataset(Config(train_videos=3, frames=2))
    assert data.videos("train") == ("train_0000", "train_0001", "train_0002")
    assert data.frames("train", "train_0002") == ("0000", "0001")
    assert data.planned("val") >= 24


def test_frames_do_not_depend_on_the_order_of_access_or_the_process():
    names = [("val", "val_0003", "0001"), ("train", "train_0003", "0001"), ("val", "val_0000", "0007")]
    forward = [checksum(Dataset(Config()), *name) for name in names]
    synthetic.make_video.cache_clear()
    synthetic.make_appearance.cache_clear()
    data = Dataset(Config())
    assert [checksum(data, *name) for name in reversed(names)][::-1] == forward
    assert len(set(forward)) == 3
    code = (
        "import zlib; from harness.data.datasets.synthetic import *;"
        "made = Dataset(Config()).read('val', 'val_0003', '0001');"
        "print(zlib.crc32(made.image.tobytes() + made.label.tobytes()))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == forward[0]


def test_seed_and_noise_change_frames():
    base, other = Dataset(Config()), Dataset(Config(seed=1))
    assert checksum(base, "val", "val_0000", "0000") != checksum(other, "val", "val_0000", "0000")
    quiet = Dataset(Config(noise=0.0)).read("val", "val_0000", "0000")
    noisy = base.read("val", "val_0000", "0000")
    np.testing.assert_array_equal(quiet.label, noisy.label)
    assert (quiet.image != noisy.image).mean() > 0.5


def test_every_class_occurs_in_every_labelled_split_and_void_is_rare():
    data = Dataset(Config())
    for split in ("train", "val"):
        counts = np.zeros(256, int)
        for video in data.videos(split):
            counts += np.bincount(data.read(split, video, "0000").label.ravel(), minlength=256)
        assert (counts[:8] > 0).all()
        assert not counts[8:255].any()
        assert 0 < counts[255] < 0.15 * counts.sum()


def test_a_class_looks_alike_in_all_videos_but_not_in_all_frames():
    data = Dataset(Config(noise=0.0))
    colours = {k: [] for k in range(8)}
    for video in data.videos("val"):
        for frame in data.frames("val", video):
            made = data.read("val", video, frame)
            for k in colours:
                if (made.label == k).sum() > 50:
                    colours[k].append(made.image[made.label == k].mean(0))
    means = np.stack([np.mean(seen, 0) for seen in colours.values()])  # (K, 3)
    within = np.mean([np.std(seen, 0).mean() for seen in colours.values()])
    pairs = means.reshape(4, 2, 3)
    between = np.linalg.norm(pairs.mean(1)[:, None] - pairs.mean(1)[None], axis=-1)[~np.eye(4, dtype=bool)].min()
    assert between > 3 * within > 0  # pairs are told apart in any frame
    assert np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=-1).max() < 3 * within  # the two of a pair are not


def test_objects_move():
    data = Dataset(Config())
    first, later = (data.read("val", "val_0000", frame).label for frame in ("0000", "0001"))
    assert 0 < (first != later).mean() < 0.5


def test_borders_are_void():
    label = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]], np.uint8)
    marked = synthetic.with_borders(label)
    assert marked.tolist() == [[1, 255, 2], [255, 255, 255], [3, 3, 3]]


def test_the_test_split_has_no_labels():
    assert Dataset(Config()).read("test", "test_0000", "0000").label is None


@pytest.mark.parametrize(
    ("split", "video", "frame"),
    [("val", "val_0024", "0000"), ("val", "train_0000", "0000"), ("val", "val_x", "0"), ("val", "val_0000", "0008")],
)
def test_what_is_not_there_is_one_line(split, video, frame):
    with pytest.raises(UnfitError, match=video if frame == "0000" or video == "val_x" else frame):
        Dataset(Config()).read(split, video, frame)


@pytest.mark.parametrize(
    "options",
    [{"classes": 1}, {"classes": 255}, {"frames": 0}, {"height": 4}, {"noise": -1.0}, {"seed": -1}, {"objects": 201}],
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=f"data.synthetic.{next(iter(options))}"):
        Dataset(Config(**options))


def test_no_objects_odd_classes_and_odd_sizes():
    made = Dataset(Config(classes=3, objects=0, height=9, width=31)).read("train", "train_0000", "0000")
    assert made.image.shape == (9, 31, 3)
    assert set(np.unique(made.label)) <= {0, 1, 2, 255}


def test_a_frame_costs_little():
    data = Dataset(Config())
    data.read("val", "val_0000", "0000")
    seconds = []
    for frame in data.frames("val", "val_0000"):
        start = time.perf_counter()
        data.read("val", "val_0000", frame)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01  # about 0.001 on an idle core; the bound is for shared ones


CONTROL = {"apart": True, "fade_chance": 0.5, "train_videos": 60}


def faded(config, video, frame, monkeypatch):
    """Whether a frame looks the same with every class exchanged for the other of its pair."""
    own = synthetic.make_frame(config, 0, video, frame)
    drawn, made = synthetic.make_video, []
    with monkeypatch.context() as patched:
        patched.setattr(
            synthetic,
            "make_video",
            lambda *which: made.append(drawn(*which)) or made[0]._replace(classes=made[0].classes ^ 1),
        )
        exchanged = synthetic.make_frame(config, 0, video, frame)
    valid = own.label != 255
    assert np.array_equal(own.label[valid] ^ 1, exchanged.label[valid])
    return np.array_equal(own.image, exchanged.image)


@pytest.mark.parametrize("hue", [None, 60.0])
def test_a_faded_frame_tells_nothing_of_a_pair_and_its_neighbours_do(hue, monkeypatch):
    config = Config(fade="frame", hue=hue, **CONTROL)
    table = np.array([[faded(config, video, time, monkeypatch) for time in range(8)] for video in range(20)])
    assert 0.35 < table.mean() < 0.65
    assert (table.any(1) & ~table.all(1)).mean() > 0.9  # both kinds in nearly every video


def test_in_the_null_twin_as_many_frames_fade_but_all_of_a_video_or_none(monkeypatch):
    config = Config(fade="video", **CONTROL)
    table = np.array([[faded(config, video, time, monkeypatch) for time in (0, 3, 7)] for video in range(60)])
    assert np.array_equal(table.all(1), table.any(1))
    assert 0.3 < table.mean() < 0.7


def test_with_apart_a_video_has_one_class_of_each_pair():
    classes = [synthetic.make_video(Config(objects=20, **CONTROL), 0, video).classes for video in range(20)]
    assert all(len(set(found.tolist())) == len(set((found // 2).tolist())) > 1 for found in classes)
    assert set(np.concatenate(classes).tolist()) == set(range(8))


def test_hue_parts_the_colours_of_a_pair_and_leaves_the_faded_one_between():
    plain, parted = synthetic.make_appearance(6, 0), synthetic.make_appearance(6, 0, 60.0)
    assert np.array_equal(plain.faded, parted.faded)
    apart = [np.linalg.norm(look.colour[::2] - look.colour[1::2], axis=1) for look in (plain, parted)]
    assert (apart[1] > 3 * apart[0]).all()
    distance = np.linalg.norm(parted.colour - parted.faded, axis=1)
    np.testing.assert_allclose(distance[::2], distance[1::2], rtol=1e-5)


@pytest.mark.parametrize("options", [{"fade_chance": 1.5}, {"apart": True, "classes": 5}])
def test_options_of_the_control_out_of_range(options):
    with pytest.raises(UsageError, match=f"data.synthetic.{list(options)[-1]}"):
        Dataset(Config(**options))
