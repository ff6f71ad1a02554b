"""What every data set owes (harness.data.contract), for each file in harness/data/datasets; vspw on a made root."""

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
from vspw_files import make_vspw

from harness.common.errors import HarnessError
from harness.config import plugins
from harness.data.contract import VOID

NAMES = plugins.names("datasets")
LABELLED = ("train", "val")


def options(name, folder):
    """What a data set needs beyond its defaults: data sets in VSPW's layout get a small one."""
    config = plugins.load("datasets", name).Config
    keys = {field.name for field in dataclasses.fields(config)}
    return {"root": str(make_vspw(folder / "made"))} if "root" in keys else {}


@pytest.fixture(params=NAMES)
def data(request, tmp_path):
    module = plugins.load("datasets", request.param)
    return module.Dataset(module.Config(**options(request.param, tmp_path)))


def test_the_folder_is_found():
    assert {"vspw", "synthetic"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_version_and_config_are_read_from_the_source(name):
    module, schema = plugins.load("datasets", name), plugins.read_schema(plugins.find("datasets", name))
    assert schema.version == module.VERSION >= 1
    assert dataclasses.is_dataclass(schema.config)
    assert schema.config.__dataclass_params__.frozen
    mine, theirs = dataclasses.fields(module.Config), dataclasses.fields(schema.config)
    assert [(f.name, f.default, dict(f.metadata)) for f in mine] == [
        (f.name, f.default, dict(f.metadata)) for f in theirs
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_module_imports_no_torch(name):
    code = f"import sys, harness.data.datasets.{name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("split", LABELLED)
def test_frames_have_the_promised_form(data, split):
    num_classes = len(data.classes)
    assert 2 <= num_classes < VOID
    assert all(isinstance(name, str) for name in data.classes)
    videos = data.videos(split)
    assert isinstance(videos, tuple)
    assert len(set(videos)) == len(videos) == data.planned(split) > 0
    for video in videos[:2]:
        frames = data.frames(split, video)
        assert isinstance(frames, tuple)
        assert list(frames) == sorted(set(frames))
        assert frames
        shapes = set()
        for name in frames[:2]:
            image, label = data.read(split, video, name)
            assert image.dtype == label.dtype == np.uint8
            assert image.shape == (*label.shape, 3)
            assert ((label < num_classes) | (label == VOID)).all()
            shapes.add(label.shape)
        assert len(shapes) == 1


def test_the_test_split_gives_images(data):
    video = data.videos("test")[0]
    image, label = data.read("test", video, data.frames("test", video)[0])
    assert image.dtype == np.uint8
    assert label is None or label.shape == image.shape[:2]


def test_reading_is_repeatable(data):
    again = pickle.loads(pickle.dumps(data))
    video = data.videos("train")[0]
    first, last = data.frames("train", video)[0], data.frames("train", video)[-1]
    before = [data.read("train", video, name) for name in (first, last)]
    after = [again.read("train", video, name) for name in (last, first)][::-1]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.parametrize("name", NAMES)
def test_digest_says_what_and_not_where(name, tmp_path):
    module = plugins.load("datasets", name)
    here, there = (module.Dataset(module.Config(**options(name, tmp_path / place))) for place in ("here", "there"))
    for split in LABELLED:
        assert here.digest(split) == there.digest(split)
        assert here.digest(split) is None or len(here.digest(split)) == 64


def test_every_video_has_a_unit(data):
    for split in LABELLED:
        units = [data.unit(video) for video in data.videos(split)]
        assert all(isinstance(unit, str) and unit for unit in units)


def test_what_is_not_there_is_an_error_of_one_line(data):
    for action in (lambda: data.videos("no such split"), lambda: data.frames("val", "no such video")):
        with pytest.raises(HarnessError) as caught:
            action()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_planning_needs_no_data(name):
    module = plugins.load("datasets", name)
    bare = module.Dataset(module.Config())
    assert all(bare.planned(split) > 0 for split in LABELLED)
    assert len(bare.classes) >= 2
