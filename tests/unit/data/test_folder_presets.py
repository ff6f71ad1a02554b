"""The presets of public data sets, on small files made in their formats."""

import numpy as np
from folder_files import (
    CAMVID,
    COLOURS,
    make_camvid,
    make_cityscapes,
    make_kitti_step,
    make_vipseg,
    preset,
    stored,
)

from harness.data import contract
from harness.data.datasets._vspw_classes import NAMES
from harness.tools import check
from harness.tools.doctor import _data as doctor


def assert_keeps_the_contract(config):
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
    assert_keeps_the_contract(config)


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
    assert_keeps_the_contract(config)


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
    assert_keeps_the_contract(config)


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
