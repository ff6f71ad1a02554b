"""Data as it lies: the public data sets' formats read by their presets, maps of labels, and mistakes in one line."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from folder_files import (
    CAMVID,
    COLOURS,
    blocks,
    make_camvid,
    make_cityscapes,
    make_kitti_step,
    make_vipseg,
    noise,
    save,
)
from PIL import Image
from vspw_files import AS_FOLDER, make_vspw

from harness.common.errors import UnfitError, UsageError
from harness.config import input_digests, plugins
from harness.config.compose import compose
from harness.data import contract
from harness.data.datasets import folder, vspw
from harness.data.datasets._vspw_classes import NAMES
from harness.data.stream import TrainStream
from harness.plan.job import Train
from harness.tools import check
from harness.tools.doctor import _data as doctor


def preset(name, root, *words):
    config = compose(name, [f"data.folder.root={root}", *words])
    return config, input_digests.build_dataset(config)


def dataset(root, **options):
    return folder.Dataset(folder.Config(root=str(root), **options))


def stored(path):
    return np.array(Image.open(path))


def keeps_the_contract(config):
    """Assert that `harness check` and `harness doctor` have nothing against it."""
    options = {key: value for key, value in config["data"]["folder"].items() if value is not None}
    broken = {one.what: one.text for one in check.checks("datasets", "folder", config_fields=options) if not one.passed}
    assert broken == {}
    assert [one.text for one in doctor.examine(config, thorough=True) if one.fit is False] == []


def test_cityscapes_by_its_preset(tmp_path):
    config, data = preset("cityscapes_video", make_cityscapes(tmp_path))
    assert data.classes[:4] == ("road", "sidewalk", "building", "wall")
    assert len(data.classes) == 19
    assert data.videos("train") == (
        "aachen_000000_000000",
        "aachen_000001_000000",
        "hamburg_000000_000042",
        "hamburg_000000_000600",
    )
    assert data.videos("val") == ("frankfurt_000000_000275", "frankfurt_000001_000001", "munster_000004_000000")
    for video in data.videos("train"):
        names = data.frames("train", video)
        assert len(names) == 30
        assert data.labelled("train", video) == (names[19],)
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    path = tmp_path / "gtFine" / "val" / "frankfurt" / "frankfurt_000000_000294_gtFine_labelIds.png"
    label = data.read("val", "frankfurt_000000_000275", "000294").label
    for value, found in zip(stored(path).ravel(), label.ravel(), strict=True):
        assert found == (ids.index(value) if value in ids else 255)
    assert data.read("val", "frankfurt_000000_000275", "000293").label is None
    assert not contract.has_labels(data, "test"), "the server's dummies are no truth"
    assert not data.dirty
    files = dict(data.split_files("val"))
    assert len(files) == 3 * 31
    assert files["munster_000004_000000/mask/000019.png"].name == "munster_000004_000019_gtFine_labelIds.png"
    keeps_the_contract(config)


def test_panoptic_ids_are_divided(tmp_path):
    root = make_cityscapes(tmp_path)
    _, plain = preset("cityscapes_video", root)
    words = ("data.folder.masks=gtFine/{split}/*/{video}_{frame}_gtFine_instanceIds.png", "data.folder.divide=1000")
    _, panoptic = preset("cityscapes_video", root, *words)
    for split in ("train", "val"):
        for video in plain.videos(split):
            (name,) = plain.labelled(split, video)
            assert np.array_equal(plain.read(split, video, name).label, panoptic.read(split, video, name).label)
    assert not panoptic.dirty
    shown = preset("cityscapes_video", root, words[0])[1]
    shown.read("val", "munster_000004_000000", "000019")
    assert max(shown.dirty) > 24000, "without it they stand for nothing, and are counted"


def test_kitti_step_by_its_preset(tmp_path):
    config, data = preset("kitti_step", make_kitti_step(tmp_path))
    assert (data.videos("train"), data.videos("val"), data.videos("test")) == (
        ("0000", "0001"),
        ("0002", "0006"),
        ("0000",),
    )
    values = set()
    for split in ("train", "val"):
        for video in data.videos(split):
            for name in data.frames(split, video):
                red = stored(tmp_path / "panoptic_maps" / split / video / f"{name}.png")[..., 0]
                assert np.array_equal(data.read(split, video, name).label, red)
                values |= set(red.ravel().tolist())
    assert values == {*range(19), 255}
    assert data.read("test", "0000", "000000").label is None
    assert not contract.has_labels(data, "test")
    assert not data.dirty
    keeps_the_contract(config)


def test_vipseg_by_its_preset(tmp_path):
    config, data = preset("vipseg", make_vipseg(tmp_path))
    assert data.classes == NAMES, "VSPW's own classes"
    assert data.videos("train") == ("1_-t1", "0_ab"), "in the order of the list"
    mask = stored(tmp_path / "panomasks" / "9_v" / "00000005.png")
    assert mask.dtype == np.uint16
    meaning = {0: 255, 1: 0, 61: 60, 124: 123, 6100: 60, 6101: 60, 4900: 48, 12400: 123, 12407: 123}
    label = data.read("val", "9_v", "00000005").label
    assert label.dtype == np.uint8
    assert label.tolist() == [[meaning[value] for value in row] for row in mask.tolist()]
    assert [data.read("train", video, "00000004").image.shape[:2] for video in data.videos("train")] == [
        (16, 32),
        (16, 40),
    ]
    assert not data.dirty
    keeps_the_contract(config)


def test_camvid_as_it_comes_by_its_preset(tmp_path):
    config, data = preset("camvid_original", make_camvid(tmp_path))
    frames = {
        split: [f"{video}/{name}" for video in data.videos(split) for name in data.frames(split, video)]
        for split in ("train", "val", "test")
    }
    assert frames["val"] == [f"0016E5_07959/{number:05d}" for number in (7959, 7961)] + [
        "0016E5_08001/08001",
        "0016E5_08159/08159",
    ]
    assert frames["test"][-3:] == [f"Seq05VD_f00000/f{number:05d}" for number in (0, 30, 60)]
    assert [name.split("/")[1] for name in frames["test"][:-3]] == ["008550", "008610", "009990", "010380"]
    assert {"0006R0_f00930/f00960", "0001TP_006690/006690", "0016E5_00390/00420"} < set(frames["train"])
    assert sum(map(len, frames.values())) == sum(len(numbers) for _, numbers in CAMVID.values()), "each once"
    kinds = {
        "sky": {21},
        "building": {4, 1, 3, 28, 31},
        "pole": {8, 23},
        "road": {17, 10, 11},
        "sidewalk": {19, 15, 18},
        "tree": {26, 29},
        "sign": {20, 12, 24},
        "fence": {9},
        "car": {5, 22, 27, 25, 14},
        "pedestrian": {16, 7, 6, 0},
        "bicyclist": {2, 13},
    }
    colours = stored(tmp_path / "LabeledApproved_full" / "0016E5_07959_L.png").reshape(-1, 3)
    label = data.read("val", "0016E5_07959", "07959").label.ravel()
    for colour, found in zip(colours.tolist(), label.tolist(), strict=True):
        index = COLOURS.index(tuple(colour))
        names = [name for name, members in kinds.items() if index in members]
        assert found == (255 if index == 30 else data.classes.index(names[0]))
    assert data.unit("0016E5_07959") == "0016E5"
    assert not data.dirty
    options = {key: value for key, value in config["data"]["folder"].items() if value is not None}
    assert all(one.passed for one in check.checks("datasets", "folder", config_fields=options))


def test_vspw_read_by_it_equals_vspw(tmp_path):
    root = make_vspw(tmp_path)
    ours, theirs = dataset(root, **AS_FOLDER), vspw.Dataset(vspw.Config(root=str(root)))
    for split in ("train", "val", "test"):
        assert ours.videos(split) == theirs.videos(split)
        assert ours.digest(split) == theirs.digest(split)
        assert sorted(ours.split_files(split)) == sorted(theirs.split_files(split))
        for video in ours.videos(split):
            assert ours.frames(split, video) == theirs.frames(split, video)
            for name in ours.frames(split, video):
                mine, other = ours.read(split, video, name), theirs.read(split, video, name)
                assert np.array_equal(mine.image, other.image)
                assert (mine.label is None and other.label is None) or np.array_equal(mine.label, other.label)


def test_identity_holds_what_is_read_and_not_where(tmp_path):
    root = make_vspw(tmp_path / "one")
    shutil.copytree(root / "data", tmp_path / "two" / "videos")
    for split in ("train", "val", "test"):
        (tmp_path / "two" / f"{split}.txt").write_text((root / f"{split}.txt").read_text())
    moved = {**AS_FOLDER, "images": "videos/{video}/origin/{frame}.*", "masks": "videos/{video}/mask/{frame}.png"}

    def identity(where, options, *words):
        given = [
            f"data.folder.{key}={json.dumps(value) if key == 'classes' else value}" for key, value in options.items()
        ]
        config = compose("demo", ["data.name=folder", f"data.folder.root={where}", *given, *words])
        resolved = input_digests.resolve(config, None, compute=True)
        assert resolved.content.missing == ()
        return Train(resolved, "upernet").fingerprint

    first = identity(root, AS_FOLDER)
    assert identity(tmp_path / "two", moved) == first
    assert identity(root, AS_FOLDER, "data.folder.sparse=true", "data.folder.expect_val=7") == first
    assert identity(root, {**AS_FOLDER, "first": 0}) != first
    mask = next((tmp_path / "two").glob("videos/train_*/mask/*.png"))
    mask.unlink()
    assert identity(tmp_path / "two", moved, "data.folder.sparse=true") != first, "a label less is other data"


def small(root, frames=4, sizes=None, masks=True, value=None):
    """Write images/SPLIT/v/0.png, 1.png, … and masks of the same names, two classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for time in range(frames):
            size = (16, 32) if sizes is None else sizes[time]
            save(root / "images" / split / "v" / f"{time}.png", noise(rng, size))
            if masks:
                save(root / "masks" / split / "v" / f"{time}.png", blocks(rng, value or [0, 1], size).astype(np.uint16))
    return root


def test_frames_without_mask_are_refused_unless_they_may_be(tmp_path):
    root = small(tmp_path)
    (root / "masks" / "train" / "v" / "2.png").unlink()
    with pytest.raises(UnfitError, match=r"2\.png: has no mask \(1 of 4 frames of train; .*sparse=true"):
        dataset(root, classes=("a", "b")).videos("train")
    data = dataset(root, classes=("a", "b"), sparse=True)
    assert data.labelled("train", "v") == ("0", "1", "3")
    save(root / "other" / "train" / "2_x.png", np.zeros((16, 32), np.uint8))
    with pytest.raises(UnfitError, match=r"belong to other frames: .*2_x\.png is frame 'x' of video '2'"):
        dataset(root, classes=("a", "b"), masks="other/{split}/{video}_{frame}.png").videos("train")
    shutil.rmtree(root / "masks" / "train")
    with pytest.raises(UnfitError, match=r"no image of train has a mask: no file matches \(data\.folder\.masks="):
        dataset(root, classes=("a", "b"), sparse=True).videos("train")


def test_frames_of_other_sizes_begin_the_video_anew(tmp_path):
    sizes = [(16, 32), (16, 32), (24, 32), (24, 32)]
    root = small(tmp_path, sizes=sizes)
    refused, data = dataset(root, classes=("a", "b")), dataset(root, classes=("a", "b"), sizes="start")
    assert contract.starts(data, "train", "v") == {"0", "2"}
    assert [data.read("train", "v", name).label.shape for name in "0123"] == sizes
    stream = TrainStream(data, offsets=(-2, -1, 0), crop=16, short_side=16, seed=0)
    assert {stream[position].name for position in range(30)} == {f"v/{name}" for name in "0123"}
    refusing = TrainStream(refused, offsets=(-2, -1, 0), crop=16, short_side=16, seed=0)
    with pytest.raises(UnfitError, match="differ in size"):
        [refusing[position] for position in range(30)]
    words = ["data.name=folder", f"data.folder.root={root}", "data.folder.classes=[a,b]"]
    broken = [one.text for one in doctor.examine(compose("demo", words), thorough=True) if one.fit is False]
    assert any("frames of more than one size" in text for text in broken)
    started = compose("demo", [*words, "data.folder.sizes=start"])
    texts = [one.text for one in doctor.examine(started, thorough=True) if one.fit is False]
    assert not any("frames of more than one size" in text for text in texts)


def test_gaps_start_or_split_a_video(tmp_path):
    root = small(tmp_path, frames=9)
    for part in ("images", "masks"):
        for time in (3, 4):
            (root / part / "train" / "v" / f"{time}.png").unlink()
    assert dataset(root, classes=("a", "b")).videos("train") == ("v",)
    assert contract.starts(dataset(root, classes=("a", "b"), gap="start"), "train", "v") == {"0", "5"}
    split = dataset(root, classes=("a", "b"), gap="split")
    assert split.videos("train") == ("v_0", "v_5")
    assert split.frames("train", "v_5") == ("5", "6", "7", "8")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"images": "images/{video}.png"}, r"data\.folder\.images=images/{video}\.png: has no {frame}"),
        ({"masks": "masks/{video}/{name}/{frame}.png"}, "{name} is unknown"),
        ({"images": "/abs/{video}/{frame}.png"}, "give a path below the data set's root"),
        ({"label_map": {"7": "road", "1,2,3": "sky"}}, "both numbers and colours"),
        ({"label_map": {"seven": "road"}}, "'seven' is not a number"),
        ({"label_map": {"7-3": "road"}}, "'7-3' is not a number"),
        ({"label_map": {"256,0,0": "road"}}, "'256,0,0' is not a number"),
        ({"label_map": {"0-7": None, "7": "road", "8": "sky"}}, "7 occurs twice"),
        ({"label_map": {"1": "road"}, "classes": ("sky", "tree")}, "'road' is not in data.folder.classes"),
        ({"label_map": {"1": "road"}, "classes": ("road", "tree")}, "nothing in .* maps to 'tree'"),
        ({"label_map": {"1,2,3": "road"}, "divide": 1000}, "colours cannot be combined with channel"),
        ({"label_map": {"1": "road"}, "first": 1}, "no effect with"),
        ({"divide_from": 125}, "needs data.folder.divide"),
        ({"divide": 1}, "must be"),
        ({"unlabelled": "exam"}, "choose from train, val, test"),
        ({"recording": "x"}, "has 0 groups"),
        ({"recording": "("}, "not a regular expression"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error):
    with pytest.raises(UsageError, match=error):
        dataset("anywhere", **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"images": "pictures/{split}/{video}/{frame}.png"}, "no image matches data.folder.images=pictures"),
        ({"images": "images/train/{video}/{frame}.png"}, "data.folder.train is not set"),
        ({"train": "w*"}, r"w\* matches no video"),
        ({"train": "list.txt"}, r"list\.txt: no such list"),
        ({"train": "wrong.txt"}, r"names 'w', for which there is no image \(1 of 2 lines\)"),
        ({"train": "empty.txt"}, "lists nothing"),
        ({"images": "images/{split}/{video}/{frame}*"}, "two files for one frame"),
        ({"root": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_data_that_is_not_there_is_named(tmp_path, options, error):
    root = small(tmp_path)
    (root / "wrong.txt").write_text("v\nw\n")
    (root / "empty.txt").write_text("\n")
    save(root / "images" / "train" / "v" / "0.jpg", np.zeros((16, 32, 3), np.uint8))
    if "{frame}*" in options.get("images", ""):
        options = {"images": "images/{split}/{video}/{frame}.*"}
    else:
        (root / "images" / "train" / "v" / "0.jpg").unlink()
    with pytest.raises(UnfitError, match=error):
        folder.Dataset(folder.Config(**{"root": str(root), "classes": ("a", "b"), **options})).videos("train")


def test_no_classes_no_root():
    with pytest.raises(UnfitError, match=r"data\.folder\.root is not set"):
        folder.Dataset(folder.Config()).videos("train")
    with pytest.raises(UnfitError, match=r"data\.folder\.classes: name at least two"):
        print(folder.Dataset(folder.Config()).classes)


def test_lists_may_name_images(tmp_path):
    root = make_camvid(tmp_path)
    lines = [
        "/SegNet/CamVid/train/0016E5_00390.png /SegNet/CamVid/trainannot/0016E5_00390.png",
        "0006R0_f00960",
        "Seq05VD",
    ]
    (root / "list.txt").write_text("\n".join(lines))
    _, data = preset("camvid_original", root, "data.folder.train=list.txt", "data.folder.gap=null")
    assert {video: data.frames("train", video) for video in data.videos("train")} == {
        "0016E5": ("00390",),
        "0006R0": ("f00960",),
        "Seq05VD": ("f00000", "f00030", "f00060"),
    }


def test_unknown_numbers_and_masks_without_image_are_told(tmp_path):
    root = small(tmp_path, value=[0, 1, 300])
    save(root / "masks" / "val" / "v" / "77.png", np.zeros((16, 32), np.uint8))
    words = ["data.name=folder", f"data.folder.root={root}", "data.folder.classes=[a,b]"]
    findings = list(doctor.examine(compose("demo", words), thorough=True))
    texts = " ".join(one.text for one in findings)
    assert "val: mask values that are not a class, in every frame: 300 (" in texts
    assert "val: 1 mask without image, not used: " in texts
    assert next(one.text for one in findings if one.fit is False).startswith("train: mask values that are not a class")


def test_a_video_file_with_labels_for_some_frames_as_documented(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    rng = np.random.default_rng(0)
    writer = ffmpeg.write_frames(str(tmp_path / "drive.mp4"), (64, 48), fps=10, macro_block_size=16)
    writer.send(None)
    for level in range(12):
        writer.send(np.full((48, 64, 3), 20 * level, np.uint8).tobytes())
    writer.close()
    text = (plugins.PROJECT / "docs" / "DATA.md").read_text()
    (command,) = [line.split() for line in text.splitlines() if line.strip().startswith("ffmpeg -i drive.mp4")]
    for split in ("train", "val"):
        (tmp_path / "frames" / split / "drive").mkdir(parents=True)
        words = [word.replace("train", split) for word in command[1:]]
        subprocess.run([ffmpeg.get_ffmpeg_exe(), *words], cwd=tmp_path, check=True, capture_output=True)
        for number in (3, 8):
            save(
                tmp_path / "masks" / split / "drive" / f"{number:06d}.png",
                blocks(rng, [0, 1], (48, 64)).astype(np.uint8),
            )
    data = dataset(tmp_path, images="frames/{split}/{video}/{frame}.png", classes=("a", "b"), sparse=True)
    assert data.frames("train", "drive") == tuple(f"{number:06d}" for number in range(12))
    assert data.labelled("train", "drive") == ("000003", "000008")
    for number in range(12):
        assert abs(data.read("train", "drive", f"{number:06d}").image.mean() - 20 * number) < 6


def test_the_documented_preset_of_ones_own(tmp_path):
    (block,) = [
        text
        for text in re.findall(r"```yaml\n(.*?)```", (plugins.PROJECT / "docs" / "DATA.md").read_text(), re.DOTALL)
        if "root: /data/streets" in text
    ]
    (tmp_path / "streets.yaml").write_text(block.replace("/data/streets", str(tmp_path)))
    rng = np.random.default_rng(0)
    for split, numbers in (("train", (15, 16, 17)), ("val", (1, 2))):
        for number in numbers:
            save(tmp_path / "frames" / split / "drive_1" / f"{number:06d}.jpg", noise(rng))
        mask = blocks(rng, list(range(14))).astype(np.uint8)
        save(tmp_path / "labels" / split / f"drive_1_{numbers[-1]:06d}.png", mask)
    data = input_digests.build_dataset(compose(str(tmp_path / "streets.yaml")))
    assert data.classes == ("road", "sidewalk", "building")
    assert data.labelled("train", "drive_1") == ("000017",)
    mask = stored(tmp_path / "labels" / "train" / "drive_1_000017.png")
    meaning = {**dict.fromkeys(range(14), 255), 7: 0, 8: 1, 11: 2, 12: 2, 13: 2}
    found = data.read("train", "drive_1", "000017").label
    assert found.tolist() == [[meaning[value] for value in row] for row in mask.tolist()]
    assert set(data.dirty) <= {9, 10}, "which the map leaves out"
