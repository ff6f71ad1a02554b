"""The doctor names videos whose relations to others would give a wrong number, and keeps quiet about whole data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_doctor import assert_only, examine_data, setting, unfit
from vspw_files import make_vspw, write

from harness.data.datasets import vspw
from harness.tools.doctor import _relations


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_vspw(tmp_path / "made", frames=4, size=(32, 40))


def notes(root: Path, *more: str, thorough: bool = False) -> list[str]:
    return [finding.text for finding in examine_data(setting(root, *more), thorough) if finding.fit is None]


def masks(root: Path, split: str) -> list[Path]:
    return sorted(root.glob(f"data/{split}_*/mask/*.png"))


@pytest.mark.parametrize("thorough", [False, True])
def test_whole_data_gives_no_note(root: Path, thorough: bool) -> None:
    assert not unfit(examine_data(setting(root), thorough))
    assert notes(root, thorough=thorough) == []


def test_a_video_in_two_splits(root: Path) -> None:
    (root / "val.txt").write_text("val_00000\ntrain_00000\n")
    (root / "test.txt").write_text("test_00000\nval_00000\n")
    found = examine_data(setting(root, "data.vspw.expect_test=2"))
    assert [finding.text for finding in unfit(found)] == ["1 video in both train and val: train_00000"]
    assert_only(found, "1 video in both val and test: val_00000", None)


def test_a_video_in_two_splits_in_two_unicode_forms(root: Path) -> None:
    for split, name in (("train", "\u00e9"), ("val", "e\u0301")):
        (root / "data" / f"{split}_00000").rename(root / "data" / name)
        (root / f"{split}.txt").write_text((root / f"{split}.txt").read_text().replace(f"{split}_00000", name))
    assert_only(examine_data(setting(root)), "1 video in both train and val: e\u0301")


def test_a_recording_in_two_splits(root: Path) -> None:
    (text,) = notes(root, r"data.vspw.recording=[a-z]+_(\d+)")
    assert text == "2 recordings with videos in both train and val: 00000, 00001"


@pytest.mark.parametrize("frame", [0, 2, 3])
def test_frames_of_two_sizes_in_a_video(root: Path, frame: int) -> None:
    for kind, suffix in (("origin", "jpg"), ("mask", "png")):
        path = root / "data" / "train_00001" / kind / f"{frame:08d}.{suffix}"
        Image.open(path).crop((0, 0, 24, 20)).save(path)
    (found,) = unfit(examine_data(setting(root)))
    assert found.text == "train: frames of more than one size within 1 video: train_00001 (24×20, 40×32)"


def test_frames_turned_by_exif_are_of_one_size(root: Path) -> None:
    path, exif = root / "data" / "train_00001" / "origin" / "00000002.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert not unfit(examine_data(setting(root)))


def test_validation_under_another_name(root: Path) -> None:
    shutil.rmtree(root / "data" / "val_00001")
    shutil.copytree(root / "data" / "train_00002", root / "data" / "val_00001")
    (found,) = unfit(examine_data(setting(root)))
    assert found.text == "1 video of val with the images of one of train: val_00001 = train_00002"


def test_validation_stored_anew_and_in_part(root: Path) -> None:
    folder = root / "data" / "val_00001" / "origin"
    for index in range(3):
        (folder / f"{index:08d}.jpg").unlink()
        Image.open(root / f"data/train_00002/origin/{index:08d}.jpg").save(folder / f"{index:08d}.png")
    text = "1 video of val with some images of one of train: val_00001 = train_00002"
    assert_only(examine_data(setting(root), thorough=True), text, None)
    (folder / "00000003.jpg").unlink()
    Image.open(root / "data/train_00002/origin/00000003.jpg").save(folder / "00000003.png")
    assert_only(examine_data(setting(root), thorough=True), "val_00001 = train_00002")


def test_black_frames_are_no_copies(root: Path) -> None:
    for video in ("train_00000", "val_00000"):
        for frame in range(4):
            Image.new("RGB", (40, 32), (frame, 0, 0)).save(root / f"data/{video}/origin/{frame:08d}.png")
            (root / f"data/{video}/origin/{frame:08d}.jpg").unlink()
        Image.fromarray(np.random.default_rng(len(video)).integers(0, 256, (32, 40, 3), np.uint8)).save(
            root / f"data/{video}/origin/00000001.png"
        )
    assert not unfit(examine_data(setting(root), thorough=True))


def test_masks_that_count_from_0(root: Path) -> None:
    for path in masks(root, "*"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 0, 255, np.where(mask == 255, 255, mask - 1)).astype(np.uint8)).save(path)
    for thorough in (False, True):
        found = notes(root, thorough=thorough)
        assert len(found) == 2
        assert all(
            "the last class 'class_5' (5) never occurs" in text and text.endswith("and 0 does") for text in found
        )


def test_classes_that_never_occur(root: Path) -> None:
    names = {"others": 0} | {f"class_{k}": k for k in range(1, 9)}
    (root / vspw.CLASS_LIST).write_text(json.dumps(names))
    for path in masks(root, "*"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 2, 8, np.where(mask == 0, 255, mask)).astype(np.uint8)).save(path)
    assert notes(root, thorough=True) == [
        f"{split}: 3 classes never occur: class_2, class_6, class_7" for split in ("train", "val")
    ]


def test_one_class_only(root: Path) -> None:
    for path in masks(root, "val"):
        write(path, np.full((32, 40), 3, np.uint8))
    assert [text for text in notes(root) if "only class" in text] == [
        "val: 'class_3' is the only class in a sample of 8 frames, so always predicting it is correct"
    ]


def test_frames_without_a_labelled_pixel(root: Path) -> None:
    void = np.full((32, 40), 255, np.uint8)
    for path in masks(root, "train")[1:]:
        write(path, void)
    found = notes(root)
    assert "train: no labelled pixel in 2 videos, by a sample of 12 frames: train_00001, train_00002" in found
    assert "train: 1 of 12 frames read have a labelled pixel" in found
    write(masks(root, "train")[0], void)
    assert_only(examine_data(setting(root)), "train: a sample of 12 frames read")


def test_the_order_of_frames_and_gaps_are_told(root: Path) -> None:
    assert_only(examine_data(setting(root)), "val: frames are ordered by number", True)
    for path in root.glob("data/val_00001/*/*"):
        path.rename(path.with_name("abcd"[int(path.stem)] + path.suffix))
    assert_only(examine_data(setting(root)), "val: frames are ordered by number, by name in 1 video (val_00001)", True)
    for path in root.glob("data/val_00000/*/00000001.*"):
        path.unlink()
    text = "val: frame numbers are missing within 1 video: val_00000 (before 00000002)"
    assert "further back in time" in assert_only(examine_data(setting(root)), text, None).text
    assert "starts after each gap" in assert_only(examine_data(setting(root, "data.vspw.gap=start")), text, None).text


def test_files_that_are_no_pictures_by_their_suffix(root: Path) -> None:
    (root / "data" / "test_00000" / "origin" / "00000009.heic").write_bytes(b"x")
    assert_only(examine_data(setting(root)), "test: 1 file among the images without an image suffix", None)


def test_headers_of_a_large_split_are_read_for_some_frames(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relations, "HEADERS", 0)
    data, read = vspw.Dataset(vspw.Config(root=str(root))), []
    monkeypatch.setattr(_relations, "size_of", lambda *words: read.append(words[-1]) or (1, 1))
    frames = {video: data.frames("val", video) for video in data.videos("val")}
    assert not list(_relations.sizes("val", data, frames, {}))
    assert sorted(read) == sorted(["00000000", "00000002", "00000003"] * 2)
