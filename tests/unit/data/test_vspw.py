import json
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from vspw_files import make_vspw

from harness.common.errors import UnfitError, UsageError
from harness.data.datasets import vspw
from harness.data.datasets._vspw_classes import NAMES

VIDEO = "train_00000"


@pytest.fixture
def root(tmp_path):
    return make_vspw(tmp_path / "made")


def build(root, **options):
    return vspw.Dataset(vspw.Config(root=None if root is None else str(root), **options))


def slow_map(value, num_classes):
    return value - 1 if 1 <= value <= num_classes else 255


def test_the_list_of_124_classes_has_vspw_s_ends_and_no_repetition():
    assert len(set(NAMES)) == 124
    assert (NAMES[0], NAMES[60], NAMES[123]) == ("wall", "person", "train")


def test_layout_is_read_in_order(root):
    data = build(root)
    assert data.classes == tuple(f"class_{k}" for k in range(1, 6))
    assert data.videos("train") == ("train_00000", "train_00001", "train_00002")
    assert data.frames("train", VIDEO) == ("00000000", "00000001", "00000002")
    frame = data.read("train", VIDEO, "00000001")
    mask = np.array(Image.open(root / "data" / VIDEO / "mask" / "00000001.png"))
    assert frame.image.shape == (24, 32, 3)
    assert frame.image.dtype == frame.label.dtype == np.uint8
    expected = [[slow_map(int(value), 5) for value in row] for row in mask]
    np.testing.assert_array_equal(frame.label, expected)
    assert not data.dirty


def test_the_test_split_has_no_labels(root):
    data = build(root)
    frame = data.read("test", "test_00000", "00000000")
    assert frame.label is None
    assert frame.image.shape == (24, 32, 3)


def test_hidden_files_are_skipped(root):
    for folder in ("origin", "mask"):
        (root / "data" / VIDEO / folder / "._00000000.jpg").write_bytes(b"")
        (root / "data" / VIDEO / folder / "._00000000.png").write_bytes(b"")
    assert len(build(root).frames("train", VIDEO)) == 3


@given(
    st.integers(1, 254),
    st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), min_size=1, max_size=5),
)
def test_label_map_is_the_official_one(num_classes, rows):
    mask = np.array(rows, np.uint8)
    label, dirty = vspw.map_labels(mask, num_classes)
    assert label.dtype == np.uint8
    assert label.tolist() == [[slow_map(value, num_classes) for value in row] for row in rows]
    outside = [value for row in rows for value in row if num_classes < value < 255]
    assert dirty == Counter(outside)


@given(st.lists(st.integers(-5, 70000), min_size=1, max_size=9))
def test_label_map_of_wide_integers(values):
    label, dirty = vspw.map_labels(np.array([values], np.int32), 124)
    assert label.tolist() == [[slow_map(value, 124) for value in values]]
    assert dirty == Counter(value for value in values if value not in range(125) and value != 255)


def test_dirty_values_become_void_and_are_counted(root):
    path = root / "data" / VIDEO / "mask" / "00000000.png"
    mask = np.ones((24, 32), np.uint8)
    mask[0, :3], mask[1, :2], mask[2, :5], mask[3, 0] = 252, 253, 0, 6
    Image.fromarray(mask).save(path)
    data = build(root)
    label = data.read("train", VIDEO, "00000000").label
    assert data.dirty == Counter({252: 3, 253: 2, 6: 1})
    assert (label == 255).sum() == 3 + 2 + 5 + 1
    assert set(np.unique(label)) == {0, 255}


@pytest.mark.parametrize("mode", ["P", "I;16", "1"])
def test_masks_are_read_as_stored(root, mode):
    mask = np.random.default_rng(0).integers(0, 6 if mode != "1" else 2, (24, 32))
    picture = {
        "P": lambda: Image.fromarray(mask.astype(np.uint8), "L"),
        "I;16": lambda: Image.fromarray(mask.astype(np.uint16)),
        "1": lambda: Image.fromarray(mask.astype(bool)),
    }[mode]()
    if mode == "P":
        picture.putpalette(list(np.random.default_rng(1).integers(0, 256, 768)))
        assert picture.mode == "P"
    path = root / "data" / VIDEO / "mask" / "00000000.png"
    picture.save(path)
    expected = [[slow_map(int(value), 5) for value in row] for row in mask]
    np.testing.assert_array_equal(build(root).read("train", VIDEO, "00000000").label, expected)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_images_of_any_mode_become_rgb(root, mode):
    colour = Image.new("RGB", (32, 24), (200, 30, 60)).convert(mode)
    colour.save(root / "data" / VIDEO / "origin" / "00000000.jpg", quality=95)
    image = build(root).read("train", VIDEO, "00000000").image
    expected = np.array(colour.convert("RGB"))[0, 0].astype(int)
    assert image.shape == (24, 32, 3)
    assert np.abs(image.astype(int) - expected).max() <= 4


# mistakes of the data: one line that names the file


def fails(action, *words):
    with pytest.raises(UnfitError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_root_not_set():
    fails(lambda: build(None).videos("train"), "data.vspw.root=DIR")


def test_root_missing(tmp_path):
    fails(lambda: build(tmp_path / "none").videos("train"), tmp_path / "none", "data.vspw.root=DIR")


def test_split_list_missing(root):
    (root / "val.txt").unlink()
    fails(lambda: build(root).videos("val"), root / "val.txt", "no such split list")


@pytest.mark.parametrize("text", ["", "\n", " \r\n\r\n"])
def test_split_list_empty(root, text):
    (root / "val.txt").write_text(text)
    fails(lambda: build(root).videos("val"), root / "val.txt", "lists no video")


@pytest.mark.parametrize("entry", ["../data", "..", ".", "/etc", "a/b", "a\\b", "a/", "x\0y"])
def test_split_entry_that_is_no_folder_name(root, entry):
    (root / "val.txt").write_text(f"val_00000\n{entry}\n")
    fails(lambda: build(root).videos("val"), root / "val.txt", repr(entry))


def test_split_list_that_is_no_text(root):
    (root / "val.txt").write_bytes(b"\xff\xfe\x00\xd8")
    fails(lambda: build(root).videos("val"), root / "val.txt")


def test_video_listed_twice(root):
    (root / "val.txt").write_text("val_00000\nval_00001\nval_00000")
    fails(lambda: build(root).videos("val"), "'val_00000' 2 times")


def test_unknown_split(root):
    with pytest.raises(UsageError, match="dev"):
        build(root).videos("dev")


def test_video_folder_missing(root):
    (root / "val.txt").write_text("val_00000\ngone")
    fails(lambda: build(root).frames("val", "gone"), root / "data" / "gone" / "origin", "val.txt")


def test_video_that_is_not_listed(root):
    fails(lambda: build(root).frames("val", VIDEO), VIDEO, "val.txt")


def test_frame_that_is_not_there(root):
    fails(lambda: build(root).read("val", "val_00000", "77"), "77.jpg")


def test_video_without_frames(root):
    for path in (root / "data" / VIDEO / "origin").iterdir():
        path.unlink()
    fails(lambda: build(root).frames("train", VIDEO), root / "data" / VIDEO / "origin", ".jpg")


def test_frame_without_mask(root):
    (root / "data" / VIDEO / "mask" / "00000001.png").unlink()
    fails(lambda: build(root).frames("train", VIDEO), "00000001.jpg", "mask/00000001.png")


def test_mask_folder_missing(root):
    (root / "data" / VIDEO / "mask").rename(root / "data" / VIDEO / "masks")
    fails(lambda: build(root).frames("train", VIDEO), root / "data" / VIDEO / "mask", "needs labels")


def test_mask_of_another_size(root):
    path = root / "data" / VIDEO / "mask" / "00000000.png"
    Image.fromarray(np.ones((12, 16), np.uint8)).save(path)
    fails(lambda: build(root).read("train", VIDEO, "00000000"), path, "16×12", "32×24")


def test_mask_that_is_a_colour_picture(root):
    path = root / "data" / VIDEO / "mask" / "00000000.png"
    Image.new("RGB", (32, 24)).save(path)
    fails(lambda: build(root).read("train", VIDEO, "00000000"), path, "one whole number per pixel")


@pytest.mark.parametrize(("folder", "name"), [("origin", "00000000.jpg"), ("mask", "00000000.png")])
@pytest.mark.parametrize(
    ("cut", "word"), [(lambda content: b"", "0 bytes"), (lambda content: content[: len(content) // 2], "damaged")]
)
def test_file_that_is_empty_or_cut_off(root, folder, name, cut, word):
    path = root / "data" / VIDEO / folder / name
    path.write_bytes(cut(path.read_bytes()))
    fails(lambda: build(root).read("train", VIDEO, "00000000"), path, word)


def test_image_that_vanished(root):
    data = build(root)
    data.frames("train", VIDEO)
    (root / "data" / VIDEO / "origin" / "00000000.jpg").unlink()
    fails(lambda: data.read("train", VIDEO, "00000000"), "no such file")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"a": "x"}',
        '{"others": 0}',
        '{"a": 1, "b": 3}',
        '{"a": 1, "b": 1}',
        json.dumps({str(k): k for k in range(255)} | {"more": 256}),
    ],
)
def test_class_list_that_is_none(root, content):
    (root / vspw.CLASS_LIST).write_text(content)
    fails(lambda: build(root).classes, root / vspw.CLASS_LIST)


# split lists, digest, planning


def test_class_list_in_numeric_order_without_others_and_void(root):
    (root / vspw.CLASS_LIST).write_text('{"void": 255, "b": 2, "others": 0, "a": "1"}')
    assert build(root).classes == ("a", "b")


def test_classes_are_vspw_s_where_the_root_has_no_list(root):
    (root / vspw.CLASS_LIST).unlink()
    assert build(root).classes == NAMES == build(None).classes


letters = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(letters, min_size=1, max_size=6, unique=True),
    st.sampled_from(["\n", "\r\n", "\n\n", " \n", "\r\n\r\n"]),
    st.booleans(),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_split_list_round_trip(tmp_path_factory, names, ending, closed, mark):
    path = tmp_path_factory.mktemp("lists") / "train.txt"
    path.write_bytes(mark + (ending.join(names) + (ending if closed else "")).encode())
    assert vspw.read_split(path) == tuple(names)


def test_digest_is_of_the_content(root, tmp_path):
    data = build(root)
    digest = data.digest("train")
    assert digest != data.digest("val")
    moved = root.rename(tmp_path / "elsewhere")
    (moved / "train.txt").write_text("train_00000\r\ntrain_00001\r\n\r\ntrain_00002\r\n")
    assert build(moved).digest("train") == digest
    (moved / "train.txt").write_text("train_00001\ntrain_00000\ntrain_00002\n")
    assert build(moved).digest("train") != digest


def test_digest_depends_on_the_class_names(root):
    digest = build(root).digest("train")
    names = json.loads((root / vspw.CLASS_LIST).read_text())
    names["other"] = names.pop("class_5")
    (root / vspw.CLASS_LIST).write_text(json.dumps(names))
    assert build(root).digest("train") != digest


def test_planned_without_data_is_as_published(tmp_path, root):
    absent = build(tmp_path / "none")
    assert [absent.planned(split) for split in vspw.SPLITS] == [2806, 343, 387]
    assert build(None, expect_val=7).planned("val") == 7
    assert [build(root).planned(split) for split in vspw.SPLITS] == [3, 2, 1]


def test_unit_is_the_recording():
    data = build(None, recording=r"[a-z]+_([0-9A-Z]+)_\d+")
    assert data.unit("val_0016E5_03") == "0016E5"
    assert data.unit("unlike") == "unlike"
    assert build(None).unit("val_0016E5_03") == "val_0016E5_03"


@pytest.mark.parametrize("pattern", ["[a-z]+", "(a)(b)", "("])
def test_recording_needs_one_group(pattern):
    with pytest.raises(UsageError, match=r"data\.vspw\.recording"):
        build(None, recording=pattern)
