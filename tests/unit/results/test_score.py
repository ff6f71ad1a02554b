"""Folders of predicted masks: the numbers, what makes two scores the same, and every mistake in one line."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from heard_progress import Heard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from vspw_files import make_vspw, write

from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.config.compose import compose
from harness.config.input_digests import build_dataset, resolve
from harness.results import metrics
from harness.results import score as scoring
from harness.results.records import read_evaluation
from harness.results.score import score, scores

CLASSES = 5
FIRST = ("val_00000", "00000000")


@pytest.fixture
def config(tmp_path):
    vspw_root = make_vspw(tmp_path / "data", videos={"train": 1, "val": 3, "test": 1}, frames=2, classes=CLASSES)
    return compose("demo", ["data.name=vspw", f"data.vspw.root={vspw_root}"])


@pytest.fixture
def masks(tmp_path, config):
    """Random masks for every frame of val."""
    return predict(tmp_path / "masks", config)


def predict(folder, config, seed=0):
    rng, data = np.random.default_rng(seed), build_dataset(config)
    for video in data.videos("val"):
        for stem in data.frames("val", video):
            write(folder / video / f"{stem}.png", rng.integers(0, CLASSES, (24, 32), np.uint8))
    return folder


def paths(folder):
    return sorted(folder.glob("*/*.png"))


def fails(kind, *words):
    """What `with` expects: the kind of mistake, on one line that has these words."""
    return OneLine(kind, words)


class OneLine:
    def __init__(self, kind, words):
        self.raises, self.words = pytest.raises(kind), words

    def __enter__(self):
        self.caught = self.raises.__enter__()

    def __exit__(self, *found):
        done = self.raises.__exit__(*found)
        message = str(self.caught.value)
        assert "\n" not in message
        assert all(str(word) in message for word in self.words), message
        return done


# numbers


def slowly(config, folder, video):
    """The confusion matrix of a video, pixel by pixel."""
    data, counts, void = build_dataset(config), np.zeros((CLASSES, CLASSES), int), 0
    for stem in data.frames("val", video):
        truth, found = data.read("val", video, stem).label, np.array(Image.open(folder / video / f"{stem}.png"))
        for t, p in zip(truth.flat, found.flat, strict=True):
            if t == 255:
                void += 1
            else:
                counts[t, p] += 1
    return counts, void


def test_counts_are_those_of_an_evaluation(tmp_path, config, masks):
    directory = score(masks, "Random", config, tmp_path / "runs")
    assert directory.parent == tmp_path / "runs" / "scores"
    assert len(directory.name) == 16
    for video in build_dataset(config).videos("val"):
        counts, void = slowly(config, masks, video)
        with np.load(directory / "videos" / f"{video}.npz") as saved:
            np.testing.assert_array_equal(saved["confusion"], counts)
            assert saved["confusion"].dtype == np.int64
            assert (saved["frames"], saved["void"]) == (2, void)
    facts = json.loads((directory / "score.json").read_text())
    assert (facts["name"], facts["split"], facts["data"]["name"]) == ("Random", "val", "vspw")
    assert facts["seconds"] > 0


def test_the_truth_scores_100_and_a_constant_its_share(tmp_path, config):
    data, best, flat = build_dataset(config), tmp_path / "best", tmp_path / "flat"
    for video in data.videos("val"):
        for stem in data.frames("val", video):
            label = data.read("val", video, stem).label
            write(best / video / f"{stem}.png", np.where(label == 255, 3, label).astype(np.uint8))
            write(flat / video / f"{stem}.png", np.zeros_like(label))
    score(best, "Truth", config, tmp_path)
    score(flat, "Zeros", config, tmp_path)
    found = dict(scores(tmp_path, config))
    assert list(found) == ["Truth", "Zeros"]
    assert found["Truth"].final["miou"] == 100
    confusion = found["Zeros"].confusion
    share = confusion[0, 0] / confusion.sum()
    assert found["Zeros"].final["miou"] == pytest.approx(100 * share / CLASSES)
    assert metrics.miou(confusion) == pytest.approx(share / CLASSES)
    assert found["Zeros"].provenance["name"] == "Zeros"


def test_it_needs_no_torch():
    code = "import sys, harness.results.score; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# what makes two scores the same


def test_changed_truth_is_another_score(tmp_path, config, masks):
    root = tmp_path / "runs"
    root.mkdir()
    first = score(masks, "Random", config, root)
    assert score(masks, "Random", config, root) == first
    for path in sorted((tmp_path / "data" / "data").glob("val_*/mask/*.png")):
        write(path, np.ones((24, 32), np.uint8))
    second = score(masks, "Random", config, root)
    assert second != first
    fresh = score(masks, "Random", config, tmp_path / "fresh")
    assert read_evaluation(second).final == read_evaluation(fresh).final != read_evaluation(first).final
    assert [name for name, _ in scores(root, config)] == ["Random"]
    assert dict(scores(root, config))["Random"].final == read_evaluation(second).final


def test_equal_masks_are_scored_once_however_they_are_stored(tmp_path, config, masks, monkeypatch):
    directory = score(masks, "Random", config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    for path in paths(masks):  # another encoding of the same indices: with a palette, without compression
        image = Image.open(path).convert("L")
        indexed = Image.frombytes("P", image.size, image.tobytes())
        indexed.putpalette([7 * k % 256 for k in range(768)])
        indexed.save(path, compress_level=0)
    shutil.move(masks, tmp_path / "elsewhere")
    monkeypatch.setattr(scoring, "count", None)  # nothing is counted again
    assert score(tmp_path / "elsewhere", "Random", config, tmp_path) == directory
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_one_pixel_one_frame_or_other_data_make_another_score(tmp_path, config, masks):
    first = score(masks, "One", config, tmp_path)
    mask = np.array(Image.open(paths(masks)[-1]))
    mask[-1, -1] = (mask[-1, -1] + 1) % CLASSES
    Image.fromarray(mask).save(paths(masks)[-1])
    second = score(masks, "Two", config, tmp_path)
    swapped = [paths(masks)[0].read_bytes(), paths(masks)[1].read_bytes()]
    paths(masks)[0].write_bytes(swapped[1])
    paths(masks)[1].write_bytes(swapped[0])
    third = score(masks, "Three", config, tmp_path)
    assert len({first, second, third}) == 3
    assert [name for name, _ in scores(tmp_path, config)] == ["One", "Three", "Two"]
    vspw_root = make_vspw(tmp_path / "more", videos={"train": 1, "val": 2}, frames=2, classes=CLASSES)
    other = compose("demo", ["data.name=vspw", f"data.vspw.root={vspw_root}"])
    assert scores(tmp_path, other) == []
    assert score(masks, "One", other, tmp_path) not in (first, second, third)  # a name is free on other data
    assert [name for name, _ in scores(tmp_path, other)] == ["One"]


def test_where_the_data_lies_and_what_is_trained_do_not_matter(tmp_path, config, masks):
    directory = score(masks, "Random", config, tmp_path)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    moved = compose("paper", ["data.name=vspw", f"data.vspw.root={tmp_path / 'copy'}", "seed=3"])
    assert score(masks, "Random", resolve(moved, None), tmp_path) == directory
    assert [name for name, _ in scores(tmp_path, moved)] == ["Random"]


def test_scores_without_the_data_are_none(tmp_path, config, masks):
    score(masks, "Random", config, tmp_path)
    assert len(scores(tmp_path, config)) == 1
    assert scores(tmp_path, compose("demo", ["data.name=vspw", f"data.vspw.root={tmp_path / 'absent'}"])) == []
    assert scores(tmp_path / "nothing", config) == []


def test_a_score_that_was_stopped_goes_on(tmp_path, config, masks, monkeypatch):
    done, count = [], scoring.count

    def stopping(job, video, stems, expected):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(video)
        return count(job, video, stems, expected)

    monkeypatch.setattr(scoring, "count", stopping)
    with pytest.raises(KeyboardInterrupt):
        score(masks, "Random", config, tmp_path)
    assert scores(tmp_path, config) == []
    counted = []
    monkeypatch.setattr(scoring, "count", lambda *them: (counted.append(them[1]), count(*them))[1])
    directory = score(masks, "Random", config, tmp_path)
    assert counted == ["val_00002"]
    assert sorted(path.stem for path in (directory / "videos").glob("*")) == ["val_00000", "val_00001", "val_00002"]
    assert len(scores(tmp_path, config)) == 1


def test_progress_ascends_to_its_total(tmp_path, config, masks):
    seen = []
    score(masks, "Random", config, tmp_path, "val", Heard(lambda done, total: seen.append((done, total))))
    assert [step for step in seen if step[1] == 6] == [(k, 6) for k in range(7)]  # the others digest the data


def test_masks_that_change_underneath_are_not_kept(tmp_path, config, masks, monkeypatch):
    def meanwhile(*_):
        write(paths(masks)[0], np.zeros((24, 32), np.uint8))

    monkeypatch.setattr(scoring, "check_free", meanwhile)
    with fails(UnfitError, masks / "val_00000", "changed while it was read"):
        score(masks, "Random", config, tmp_path)
    assert scores(tmp_path, config) == []


# mistakes of the masks


def test_no_folder(tmp_path, config):
    with fails(UnfitError, tmp_path / "none", "no such folder"):
        score(tmp_path / "none", "X", config, tmp_path)


def test_missing_videos(tmp_path, config, masks):
    shutil.rmtree(masks / "val_00001")
    shutil.rmtree(masks / "val_00002")
    with fails(UnfitError, masks, "2 of the val split's 3 videos", "'val_00001' first"):
        score(masks, "X", config, tmp_path)


def test_missing_frames(tmp_path, config, masks):
    for path in paths(masks)[1:4]:
        path.unlink()
    with fails(UnfitError, masks / "val_00000" / "00000001.png", "3 of 6 are missing"):
        score(masks, "X", config, tmp_path)


def test_extra_files_do_not_matter(tmp_path, config, masks):
    directory = score(masks, "X", config, tmp_path)
    (masks / "README").write_text("made by hand")
    write(masks / "val_00000" / "extra.png", np.zeros((2, 2), np.uint8))
    assert score(masks, "X", config, tmp_path) == directory


def test_wrong_size(tmp_path, config, masks):
    write(paths(masks)[3], np.zeros((32, 24), np.uint8))
    with fails(UnfitError, paths(masks)[3], "is 24×32, its frame 32×24"):
        score(masks, "X", config, tmp_path)


@pytest.mark.parametrize("value", [CLASSES, 254, 255])
def test_label_that_is_no_class(tmp_path, config, masks, value):
    mask = np.zeros((24, 32), np.uint8)
    mask[3, 5] = value
    write(paths(masks)[2], mask)
    with fails(UnfitError, paths(masks)[2], f"contains {value}", "from 0 to 4"):
        score(masks, "X", config, tmp_path)


def test_wide_label_that_is_no_class(tmp_path, config, masks):
    Image.fromarray(np.full((24, 32), 256, np.uint16)).save(paths(masks)[2])  # 0 in eight bits
    with fails(UnfitError, paths(masks)[2], "contains 256"):
        score(masks, "X", config, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: Image.new("RGB", (32, 24)).save(path), "3 channels"),
        (lambda path: Image.new("RGBA", (32, 24)).save(path), "4 channels"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "damaged"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_text("not a picture"), "not an image"),
    ],
)
def test_file_that_is_no_mask(tmp_path, config, masks, spoil, word):
    spoil(paths(masks)[1])
    with fails(UnfitError, paths(masks)[1], word):
        score(masks, "X", config, tmp_path)


def test_split_without_labels_and_unknown_split(tmp_path, config, masks):
    (masks / "test_00000").mkdir()
    for stem in ("00000000", "00000001"):
        write(masks / "test_00000" / f"{stem}.png", np.zeros((24, 32), np.uint8))
    with fails(UnfitError, "test split has no labels"):
        score(masks, "X", config, tmp_path, "test")
    with fails(UsageError, "no split 'dev'"):
        score(masks, "X", config, tmp_path, "dev")


def test_root_that_is_a_file(tmp_path, config, masks):
    (tmp_path / "file").write_text("")
    with fails(UnfitError, tmp_path / "file", "cannot be written"):
        score(masks, "X", config, tmp_path / "file")


# names


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ("a/b", "path separator"),
        ("a\\b", "path separator"),
        ("a\nb", "line break"),
        ("a\x1b[31mb", "line break"),
        ("x" * 61, "longer than 60"),
        (" a", "spaces"),
        ("a  b", "spaces"),
    ],
)
def test_unfit_names(tmp_path, config, name, word):
    with fails(UsageError, "--name", word):
        score(tmp_path, name, config, tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=70))
def test_a_name_is_one_line_or_a_mistake_of_one_line(name):
    with suppress(HarnessError):
        scoring.check_name(name)
        assert 0 < len(name) <= 60
        assert name.isprintable()
        assert name.splitlines() == [name]
        return
    with pytest.raises(UsageError) as caught:
        scoring.check_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["TCB (OCR)", "Ünïcode · 2021", "它", "100 % | <b>", "🙂", "it's", '"quoted"'])
def test_fit_names(tmp_path, config, masks, name):
    score(masks, name, config, tmp_path)
    assert [found for found, _ in scores(tmp_path, config)] == [name]


def test_names_that_are_taken(tmp_path, config, masks):
    score(masks, "PSPNet", config, tmp_path)
    with fails(UsageError, "'PSPNet' belongs to other masks", "'PSPNet 2'"):
        score(predict(tmp_path / "other", config, seed=1), "PSPNet", config, tmp_path)
    with fails(UsageError, "already scored as 'PSPNet'"):
        score(masks, "OCRNet", config, tmp_path)
    assert [name for name, _ in scores(tmp_path, config)] == ["PSPNet"]


def test_a_damaged_score_file_is_no_score(tmp_path, config, masks):
    directory = score(masks, "PSPNet", config, tmp_path)
    (directory / "score.json").write_text("{")
    assert scores(tmp_path, config) == []
