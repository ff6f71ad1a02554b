"""More than 255 classes: 16 bits from the masks' files to training, evaluation, submission, score and prediction."""

import zipfile

import numpy as np
import pytest
import tiny_jobs
import torch
from folder_files import noise, save
from PIL import Image
from tiny_jobs import ALONE, evaluation, train_now, training

from harness.common.errors import UnfitError
from harness.config.compose import DataSpec, compose
from harness.config.sections import EvaluateConfig
from harness.data import contract, pictures
from harness.data.stream import TrainStream
from harness.engine import build, evaluate, train
from harness.engine.runtime import Stop
from harness.results import palette, score, submission
from harness.results.records import read_evaluation
from harness.tools import predict
from models import contract as model_contract
from models.contract import Output

CLASSES, SIZE = 300, (32, 48)
NAMES = tuple(f"class {number}" for number in range(CLASSES))
A = "a" * 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images and 16-bit masks of 300 classes, 255 and 256 among those that occur; no masks for test."""
    torch.set_num_threads(1)
    root, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for video in ("one", "two"):
            for time in range(2):
                save(root / "images" / split / video / f"{time}.png", noise(rng, SIZE))
                coarse = rng.choice([0, 254, 255, 256, 299, 65535], (4, 6))
                mask = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint16)
                if split != "test":
                    save(root / "masks" / split / video / f"{time}.png", mask)
    return root


@pytest.fixture(scope="module")
def trained(root):
    return train_now(training(root, A, "decoder_a", data=spec(root), iterations=3))


def spec(root):
    return DataSpec("folder", {"root": str(root), "classes": NAMES})


def config(root):
    return compose("demo", ["data.name=folder", f"data.folder.root={root}", f"data.folder.classes=[{','.join(NAMES)}]"])


def run(folder):
    evaluate.evaluate([evaluate.task(folder)], ALONE, Stop())
    return folder


def test_void_and_types_on_both_sides():
    for classes, void, dtype in ((2, 255, np.uint8), (255, 255, np.uint8), (256, 65535, np.uint16)):
        assert contract.void(classes) == model_contract.void(classes) == void
        assert contract.label_type(classes) == dtype


def test_labels_are_read_and_augmented_as_they_are(root):
    data = build.dataset(spec(root))
    label = data.read("train", "one", "0").label
    assert label.dtype == np.uint16
    assert np.array_equal(label, np.array(Image.open(root / "masks" / "train" / "one" / "0.png")))
    assert not data.dirty
    stream = TrainStream(data, offsets=(-1, 0), crop=64, short_side=32, seed=0)  # larger than the frames: padded
    samples = [stream[position] for position in range(8)]
    assert {sample.labels.dtype for sample in samples} == {torch.int32}
    values = set(torch.stack([sample.labels for sample in samples]).unique().tolist())
    assert values == {0, 254, 255, 256, 299, 65535}


def test_class_255_counts_in_the_loss_and_void_does_not():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, CLASSES, 4, 4), torch.full((1, 4, 4), 65535)
    labels[0, 0, :2] = torch.tensor([255, 299])
    parts = train.losses(Output(logits), labels, 2)
    expected = -sum(logits[0, :, 0, column].log_softmax(0)[label] for column, label in enumerate((255, 299))) / 2
    assert parts["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_evaluation_counts_every_class_and_keeps_masks_of_16_bits(root, trained):
    folder = run(evaluation(root, "kept", [A], data=spec(root), evaluate=EvaluateConfig(window=32, keep_masks=True)))
    data = build.dataset(spec(root))
    for video in ("one", "two"):
        expected = np.zeros((CLASSES, CLASSES), np.int64)
        for name in ("0", "1"):
            mask = Image.open(folder / "masks" / video / f"{name}.png")
            assert mask.mode.startswith("I;16")
            for row, column in zip(data.read("val", video, name).label.ravel(), np.array(mask).ravel(), strict=True):
                if row != 65535:
                    expected[row, column] += 1
        saved = np.load(folder / "videos" / f"{video}.npz")
        assert np.array_equal(saved["confusion"], expected)
        assert expected[255].sum() > 0
        assert saved["void"] == 2 * SIZE[0] * SIZE[1] - expected.sum()
        sample = Image.open(folder / "samples" / video / "1.png")
        assert np.array_equal(np.array(sample), np.array(Image.open(folder / "masks" / video / "1.png")))
    again = run(
        evaluation(
            root,
            "prior",
            [A],
            1,
            prior="kept",
            data=spec(root),
            evaluate=EvaluateConfig(window=32, prior_masks=str(folder)),
        )
    )
    alone = run(evaluation(root, "stage", [A], 1, data=spec(root)))
    for video in ("one", "two"):
        assert np.array_equal(tiny_jobs.counts(again)[video], tiny_jobs.counts(alone)[video])
    directory = score.score(folder / "masks", "the same", config(root), root / "runs")
    counted, ours = read_evaluation(directory), read_evaluation(folder)
    assert all(np.array_equal(counted.videos[video], ours.videos[video]) for video in ("one", "two"))
    assert np.array_equal(sum(counted.vc.values()), sum(ours.vc.values()))


def test_a_submission_is_of_16_bits(root, trained, tmp_path):
    folder = run(evaluation(root, "server", [A], split="test", data=spec(root)))
    assert submission.unlabelled(config(root), "test")
    assert submission.check(folder / "masks", config(root), "test") == []
    submission.pack(folder / "masks", tmp_path / "masks.zip")
    assert submission.check(tmp_path / "masks.zip", config(root), "test") == []
    with zipfile.ZipFile(tmp_path / "masks.zip") as packed, packed.open("one/0.png") as file:
        assert np.array_equal(np.array(Image.open(file)), np.array(Image.open(folder / "masks" / "one" / "0.png")))
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "masks" / "one" / "0.png")
    assert "is stored as uint8, not uint16" in submission.check(folder / "masks", config(root), "test")[0]
    Image.fromarray(np.full(SIZE, 300, np.uint16)).save(folder / "masks" / "one" / "0.png")
    assert "contains 300, which is not a class" in submission.check(folder / "masks", config(root), "test")[0]


def test_prediction_writes_16_bits_and_an_overlay(root, trained, tmp_path):
    done = predict.predict([trained], root / "images" / "test" / "one", tmp_path / "out")
    mask = Image.open(tmp_path / "out" / "masks" / "0.png")
    assert mask.mode.startswith("I;16")
    assert np.array(mask).max() < CLASSES
    assert done.frames == 2
    assert (tmp_path / "out" / "overlays" / "0.jpg").is_file()


def test_colours_of_many_classes_are_distinct_and_void_is_grey():
    colours = palette.palette(CLASSES)
    assert len({tuple(row) for row in colours[:CLASSES].tolist()}) > 250
    assert palette.coloured(np.array([[65535, 299]], np.uint16), colours).tolist() == [
        [list(palette.VOID_COLOUR), colours[299].tolist()]
    ]
    assert np.array_equal(palette.palette(5)[:5], palette.palette(254)[:5])
    assert palette.palette(5).shape == (256, 3)


def test_eight_bit_readers_still_refuse_16_bit_numbers(root):
    with pytest.raises(UnfitError, match="class numbers end at 255"):
        pictures.read_mask(root / "masks" / "train" / "one" / "0.png")
