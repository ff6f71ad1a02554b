"""Labels in some frames only: what a data set says of them, the training stream, hold-out, score, doctor and check."""

from collections import Counter

import numpy as np
import one_model
import pytest
import sparse_videos
import torch
from PIL import Image
from sparse_videos import BARE, FOLDER

from harness.common.errors import UnfitError
from harness.config import input_digests
from harness.config.compose import compose
from harness.data import contract
from harness.data.augmentation import augment
from harness.data.datasets import synthetic
from harness.data.hold_out import HoldOut
from harness.data.stream import TrainStream, loader
from harness.engine import build
from harness.plan import plan
from harness.results import score, submission
from harness.results.records import read_evaluation
from harness.tools import check
from harness.tools.doctor import _data as doctor

TRAIN = ("train_0000", "train_0002", "train_0004", "train_0005")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def dataset(**changes):
    return build.dataset(sparse_videos.data(**changes), (FOLDER,))


def stream(data, offsets=(-2, -1, 0)):
    return TrainStream(data, offsets=offsets, crop=16, short_side=16, seed=0)


def config(*words):
    changes = [f"data.sparse.bare=[{','.join(BARE)}]", "data.name=sparse", *words]
    return compose("demo", changes, (FOLDER,))


def test_what_is_labelled():
    data, dense = dataset(), synthetic.Dataset(synthetic.Config(val_videos=2))
    assert contract.labelled(data, "train", "train_0000") == ("0002", "0007")
    assert contract.labelled(data, "train", "train_0001") == ()
    assert contract.labelled(dense, "val", "val_0000") == dense.frames("val", "val_0000")
    assert contract.labelled_videos(data, "train") == contract.evaluated_videos(data, "train") == TRAIN
    assert contract.evaluated_videos(data, "test") == data.videos("test") == ("test_0000",)
    assert contract.evaluated_videos(dense, "val") == dense.videos("val")
    assert contract.evaluated(data, "val", "val_0000") == data.frames("val", "val_0000")[:8]
    assert len(contract.evaluated(data, "test", "test_0000")) == 10
    labels = {split: contract.has_labels(data, split) for split in ("train", "val", "test")}
    assert labels == {"train": True, "val": True, "test": False}
    assert not contract.has_labels(dense, "test")
    assert (contract.planned(data, "train"), contract.planned(data, "val"), contract.planned(data, "test")) == (4, 2, 1)


def test_training_draws_labelled_frames_and_past_ones_need_no_mask():
    ours = stream(dataset())
    samples = [ours[position] for position in range(80)]
    videos, frames = zip(*(sample.name.split("/") for sample in samples), strict=True)
    assert Counter(videos) == dict.fromkeys(TRAIN, 20), "each labelled video once a cycle, the others never"
    assert set(frames) == {"0002", "0007"}
    assert 25 < Counter(frames)["0002"] < 55
    for sample in samples:
        assert sample.labelled.tolist() == [False, False, True]
        assert (sample.labels[:2] == 255).all()
        assert (sample.labels[2] != 255).any()


def test_it_equals_slow_obvious_code():
    data = dataset()
    ours = stream(data)
    for position in (0, 5, 11):
        rng = np.random.default_rng([0, 0, position])
        key, video = int(rng.integers(2**63)), ours.video(position)
        current = (2, 7)[int(rng.integers(2))]
        clip = [data.read("train", video, f"{current + offset:04d}") for offset in (-2, -1, 0)]
        images = torch.stack([torch.from_numpy(frame.image).permute(2, 0, 1) for frame in clip])
        void = np.full((32, 48), 255, np.uint8)
        labels = torch.stack([torch.from_numpy(void), torch.from_numpy(void), torch.from_numpy(clip[2].label)])
        images, labels = augment(images, labels, 16, 16, rng)
        assert torch.equal(images, ours[position].frames)
        assert torch.equal(labels, ours[position].labels)
        assert (key, f"{video}/{current:04d}") == (ours[position].key, ours[position].name)


def test_it_equals_the_dense_set_restricted_to_the_same_frames():
    ours, dense = stream(dataset()), stream(dataset(masks="all"))
    for position in range(8):
        sparse, other = ours[position], dense[position]
        assert torch.equal(sparse.frames, other.frames)
        assert torch.equal(sparse.labels[-1], other.labels[-1])
        assert (sparse.key, sparse.name) == (other.key, other.name)
        assert other.labelled.all()


def test_batches_say_which_frames_are_labelled_with_and_without_workers():
    lists = [[0, 1, 2], [3, 4, 5]]
    for alone, other in zip(loader(stream(dataset()), lists), loader(stream(dataset()), lists, 1), strict=True):
        assert alone.labelled.tolist() == [[False, False, True]] * 3
        assert torch.equal(alone.labelled, other.labelled)
        assert torch.equal(alone.labels, other.labels)


def test_nothing_labelled_is_told_before_the_first_step():
    with pytest.raises(UnfitError, match="the train split has no labelled frame to train on"):
        stream(dataset(pattern="....."))


def test_hold_out_takes_labelled_videos_only():
    held = HoldOut(dataset(), 0.25)
    assert contract.labelled_videos(held, "dev") == held.videos("dev")
    assert len(held.videos("dev")) == 1
    assert contract.labelled(held, "dev", held.videos("dev")[0]) == ("0002", "0007")
    assert contract.labelled_videos(held, "train") == tuple(v for v in TRAIN if v not in held.videos("dev"))
    assert set(BARE[:2]) < set(held.videos("train"))
    assert contract.planned(held, "train") == 3
    dense = HoldOut(synthetic.Dataset(synthetic.Config(train_videos=6)), 0.25)
    assert dense.labelled is None


def test_an_epoch_and_a_plan_count_labelled_videos(tmp_path):
    resolved = input_digests.resolve(config("train.batch=2", "train.epochs=3", "train.frames_per_video=1"), None)
    assert resolved.content.videos == {"train": 4, "val": 2}
    assert resolved.iterations() == 3 * 4 // 2
    planned = plan.make([one_model.FILE], resolved, tmp_path)
    assert planned.videos(planned.experiments[0].cells[0][1].job) == ["val_0000", "val_0002"]


def save_masks(folder, frames):
    rng = np.random.default_rng(0)
    masks = {}
    for video, name in frames:
        mask = masks[video, name] = rng.integers(0, 4, (32, 48)).astype(np.uint8)
        (folder / video).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(folder / video / f"{name}.png")
    return masks


def test_a_score_needs_the_masks_of_labelled_frames_only(tmp_path):
    data = dataset()
    frames = [(video, name) for video in ("val_0000", "val_0002") for name in ("0002", "0007")]
    masks = save_masks(tmp_path / "masks", frames)
    directory = score.score(tmp_path / "masks", "mine", config(), tmp_path / "runs")
    record = read_evaluation(directory)
    assert sorted(record.videos) == ["val_0000", "val_0002"]
    for video, confusion in record.videos.items():
        expected = np.zeros((4, 4), np.int64)
        for name in ("0002", "0007"):
            truth = data.read("val", video, name).label
            for row, column in zip(truth.ravel(), masks[video, name].ravel(), strict=True):
                if row != 255:
                    expected[row, column] += 1
        assert np.array_equal(confusion, expected)
    assert not [key for key in record.final if key.startswith("mvc")], "no two labelled frames follow each other"
    (tmp_path / "masks" / "val_0002" / "0007.png").unlink()
    with pytest.raises(UnfitError, match=r"0007\.png: no such mask \(1 of 4 are missing\)"):
        score.score(tmp_path / "masks", "mine", config(), tmp_path / "runs")
    with pytest.raises(UnfitError, match="the test split has no labels"):
        score.score(tmp_path / "masks", "mine", config(), tmp_path / "runs", "test")


def test_which_split_is_for_the_server():
    assert not submission.unlabelled(config(), "val")
    assert submission.unlabelled(config(), "test")
    assert not submission.unlabelled(config("data.sparse.pattern=....x"), "val"), "its first frame has no label"


def test_check_and_doctor_say_how_many_frames_are_labelled(tmp_path):
    options = {"bare": BARE, "pattern": "..x.."}
    results = list(check.checks("datasets", "sparse", (FOLDER,), config_fields=options))
    assert [one.text for one in results if not one.passed] == []
    assert any(one.text == "9 videos of 10 to 10 frames, 12 of 90 frames labelled" for one in results)
    findings = list(doctor.examine(config(), thorough=True))
    texts = {finding.text: finding.fit for finding in findings}
    assert texts["train: 8 of 60 frames labelled"] is True
    assert texts["train: no frame is labelled in 2 videos, left out everywhere: train_0001, train_0003"] is None
    assert texts["val: 4 of 30 frames labelled"] is True
    assert not [finding.text for finding in findings if finding.fit is False]
    assert not [text for text in texts if "read have a labelled pixel" in text]
    nothing = {f.text: f.fit for f in doctor.examine(config("data.sparse.pattern=....."), thorough=False)}
    assert nothing["val: 0 of 30 frames labelled"] is False


def test_check_names_a_data_set_whose_two_words_differ(tmp_path):
    texts = [
        one.text
        for one in check.checks("datasets", "sparse", (FOLDER,), config_fields={"masks": "all"})
        if not one.passed
    ]
    assert len(texts) == 1
    assert "expected no label, since `labelled` leaves it out" in texts[0]
