"""Roots that are half copied, turn in circles or have odd names."""

import os

import pytest
from mistakes import FRAME, VIDEO, build_data, check, fails, walk

from harness.config.compose import compose
from harness.config.input_digests import resolve
from harness.data.datasets import vspw


def test_half_copied_root(root):
    videos = [root / "data" / name for name in ("val_00000", "val_00001")]
    for file in (videos[1] / "mask").iterdir():
        file.unlink()
    assert len(build_data(root).frames("val", "val_00000")) == 3
    fails(lambda: walk(build_data(root)), videos[1] / "mask", "holds no .png file", "complete the data")
    (videos[1] / "mask").rmdir()
    fails(lambda: walk(build_data(root)), videos[1] / "mask", "no such folder", "complete the data")
    for file in (videos[1] / "origin").iterdir():
        file.unlink()
    fails(lambda: walk(build_data(root)), videos[1] / "origin", "holds no .jpg file")
    (root / "data").rename(root / "date")
    fails(lambda: walk(build_data(root)), root / "data" / VIDEO / "origin", "no such folder")
    (root / "val.txt").unlink()
    fails(lambda: walk(build_data(root)), root / "val.txt", "no such split list")


@pytest.mark.parametrize("name", ["", "data", f"data/{VIDEO}", f"data/{VIDEO}/origin", f"data/{VIDEO}/mask", "val.txt"])
def test_links_in_a_circle(root, name):
    path = root / name
    path.rename(root.parent / "moved")
    path.symlink_to(path)
    fails(lambda: walk(build_data(root)), root)


def test_link_of_a_picture_to_itself(root):
    path = root / "data" / VIDEO / "mask" / f"{FRAME}.png"
    path.unlink()
    path.symlink_to(path)
    fails(lambda: walk(build_data(root)), path, "complete the data")


@pytest.mark.parametrize("name", ["with space", "it's", '"quoted"', "🙂", "val.00", "Ünïcode", "-rf", "$(id)", "%s{0}"])
def test_names_that_look_odd_are_read(root, name):
    (root / "data" / VIDEO).rename(root / "data" / name)
    (root / "val.txt").write_text(name)
    assert len(walk(build_data(root))) == 3


@pytest.mark.parametrize("name", ["new\nline", "\x1b[31mred", "tab\there", "🙂 'a' \"b\"", os.fsdecode(b"\xff")])
def test_messages_are_one_line_whatever_the_path(root, name):
    odd = root.rename(root.parent / name)
    assert len(walk(build_data(odd))) == 6
    (odd / "data" / VIDEO / "origin" / f"{FRAME}.jpg").write_bytes(b"")
    fails(lambda: walk(build_data(odd)), "0 bytes")
    (odd / "data" / VIDEO / "origin" / f"{name}.jpg").write_bytes(b"")
    fails(lambda: walk(build_data(odd)), "has no mask")
    (odd / "val.txt").write_text("")
    fails(lambda: walk(build_data(odd)), "lists no video")
    (odd / vspw.CLASS_LIST).write_text("")
    fails(lambda: build_data(odd).classes, "no mapping")


@pytest.mark.parametrize("path", ["~no_such_person/VSPW", "x" * 5000, "/dev/null", "/dev/null/VSPW", "a\0b", ""])
def test_root_that_is_no_folder(path):
    data = build_data(path)
    attempts = [lambda split=split: data.videos(split) for split in vspw.SPLITS]
    for action in attempts:
        fails(action)
    assert data.planned("val") == 343


def test_planning_goes_on_and_says_what_is_wrong(root):
    (root / "val.txt").write_bytes(b"\xff\xff")
    (root / vspw.CLASS_LIST).write_text("[1, 2]")
    content = resolve(compose("demo", ["data.name=vspw", f"data.vspw.root={root}"]), None).content
    assert content.splits == {"train": None, "val": None}
    assert content.missing
    for line in content.missing:
        check(line, root)
