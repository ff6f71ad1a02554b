"""Data as it lies: the public data sets' formats read by their presets, maps of labels, and mistakes in one line."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from folder_files import (
    blocks,
    make_camvid,
    noise,
    preset,
    save,
    stored,
)
from vspw_files import AS_FOLDER, make_vspw

from harness.common.errors import UnfitError, UsageError
from harness.config import input_digests, plugins
from harness.config.compose import compose
from harness.data import contract
from harness.data.datasets import folder, vspw
from harness.data.stream import TrainStream
from harness.plan.job import Train
from harness.tools.doctor import _data as doctor


def dataset(root, **options):
    return folder.Dataset(folder.Config(root=str(root), **options))


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
