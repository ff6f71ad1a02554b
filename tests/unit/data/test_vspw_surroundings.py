"""Data that is almost in VSPW's layout: read as it was meant, or refused in a line that says what it is."""

import codecs
import json
import unicodedata

import numpy as np
import pytest
from mistakes import build_data, fails, walk
from PIL import Image
from vspw_files import make_vspw

from harness.data.datasets import vspw

VIDEO = "val_00000"


@pytest.fixture
def root(tmp_path):
    return make_vspw(tmp_path / "made", frames=4)


def test_suffixes_of_any_case_and_format(root):
    before = walk(build_data(root))
    folder = root / "data" / VIDEO
    for index, suffix in ((1, ".JPG"), (2, ".Jpeg")):
        path = folder / "origin" / f"0000000{index}.jpg"
        path.rename(path.with_suffix(suffix))
    (folder / "mask" / "00000001.png").rename(folder / "mask" / "00000001.PNG")
    path = folder / "origin" / "00000003.jpg"
    Image.open(path).save(path.with_suffix(".png"))
    path.unlink()
    after = walk(build_data(root))
    assert len(after) == len(before) == 8
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.parametrize("name", ["00000003.heic", "00000003", "00000003.jpg.bak"])
def test_a_frame_with_a_mask_does_not_vanish(root, name):
    folder = root / "data" / VIDEO / "origin"
    (folder / "00000003.jpg").rename(folder / name)
    if name.endswith(".bak"):  # another stem: the doctor tells of the mask that is left
        assert len(build_data(root).frames("val", VIDEO)) == 3
    else:
        fails(lambda: build_data(root).frames("val", VIDEO), folder / name, "save it as .jpg or .png")


def test_hidden_files_and_others_are_no_frames(root):
    for name in (".00000009.jpg", "Thumbs.db", "notes.txt"):
        (root / "data" / VIDEO / "origin" / name).write_bytes(b"x")
    assert len(build_data(root).frames("val", VIDEO)) == 4


def test_links_are_followed_everywhere(root, tmp_path):
    before = walk(build_data(root))
    (root / "data" / VIDEO).rename(tmp_path / "elsewhere")
    (root / "data" / VIDEO).symlink_to(tmp_path / "elsewhere")
    for kind in ("origin", "mask"):
        (tmp_path / "elsewhere" / kind).rename(tmp_path / kind)
        (tmp_path / "elsewhere" / kind).symlink_to(tmp_path / kind)
        for path in list((tmp_path / kind).iterdir()):
            path.rename(tmp_path / f"{kind}-{path.name}")
            path.symlink_to(tmp_path / f"{kind}-{path.name}")
    (root / "val.txt").rename(tmp_path / "list")
    (root / "val.txt").symlink_to(tmp_path / "list")
    for one, other in zip(before, walk(build_data(root)), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


def test_names_in_another_unicode_form_are_said_so(root):
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    folder = root / "data" / VIDEO
    (folder / "origin" / "00000003.jpg").rename(folder / "origin" / f"{composed}.jpg")
    (folder / "mask" / "00000003.png").rename(folder / "mask" / f"{apart}.png")
    fails(lambda: build_data(root).frames("val", VIDEO), "another Unicode form", "rename it")
    folder.rename(root / "data" / apart)
    (root / "val.txt").write_text(composed, encoding="utf-8")
    fails(lambda: build_data(root).frames("val", composed), "another Unicode form", apart)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["val.txt", vspw.CLASS_LIST])
def test_lists_in_utf_16_are_named(root, encoding, name):
    path = root / name
    path.write_bytes(path.read_text().encode(encoding))
    fails(lambda: (build_data(root).videos("val"), build_data(root).classes), path, "UTF-16", "UTF-8")


def test_a_mark_of_utf_8_is_no_utf_16(root):
    (root / "val.txt").write_bytes(codecs.BOM_UTF8 + (root / "val.txt").read_bytes())
    assert len(build_data(root).videos("val")) == 2


@pytest.mark.parametrize(
    "line", ["{n} {v}", "{n}\t{v}", "{n}. {v}", "{n},{v}", "{n}) {v}", "{v} 70", "{v},70", "{n}: {v}"]
)
def test_numbered_lists_are_named(root, line):
    videos = [f"val_{n:05d}" for n in range(2)]
    (root / "val.txt").write_text("\n".join(line.format(n=n, v=video) for n, video in enumerate(videos)))
    fails(lambda: build_data(root).videos("val"), root / "val.txt", "numbered list", "'val_00000'")


def test_a_folder_may_look_like_a_line_of_a_numbered_list(root):
    (root / "data" / VIDEO).rename(root / "data" / "0 val_00001")
    (root / "val.txt").write_text("0 val_00001\n")
    assert build_data(root).videos("val") == ("0 val_00001",)


def test_a_zip_one_folder_too_deep_is_named(root, tmp_path):
    fails(lambda: build_data(tmp_path).videos("val"), f"data.vspw.root={root}")
    fails(lambda: build_data(root / "data").videos("val"), f"data.vspw.root={root}")
    (root / "data").rename(root / "inner")
    (root / "data").mkdir()
    (root / "inner").rename(root / "data" / "data")
    fails(lambda: build_data(root).frames("val", VIDEO), "one folder too deep", root / "data" / "data" / VIDEO)


def test_a_video_one_folder_too_deep_is_named(root):
    folder = root / "data" / VIDEO
    folder.rename(root / "aside")
    folder.mkdir()
    (root / "aside").rename(folder / VIDEO)
    fails(lambda: build_data(root).frames("val", VIDEO), "one folder too deep", folder / VIDEO / "origin")


@pytest.mark.parametrize(("name", "number"), [("road", 0), ("background", 0), ("car", 255)])
def test_a_class_at_a_number_that_is_ignored_is_refused(root, name, number):
    (root / vspw.CLASS_LIST).write_text(json.dumps({name: number, "building": 1, "tree": 2}))
    fails(lambda: build_data(root).classes, root / vspw.CLASS_LIST, f"'{name}' has the number {number}", "from 1")


@pytest.mark.parametrize(
    "name", ["others", "Other", "void", "ignore", "Unlabelled", "un-labeled", "don't care", "_unknown_"]
)
def test_names_that_are_no_class_may_be_0_and_255(root, name):
    (root / vspw.CLASS_LIST).write_text(json.dumps({name: 0, "building": 1, "tree": 2, f"{name} ": 255}))
    assert build_data(root).classes == ("building", "tree")


def test_one_class_only_is_refused(root):
    (root / vspw.CLASS_LIST).write_text(json.dumps({"others": 0, "road": 1}))
    fails(lambda: build_data(root).classes, root / vspw.CLASS_LIST, "'road' is the only class")
