"""`harness check` of data sets and encoders."""

import pytest
from checking import RANKS, TRAINING, broken, run, write
from vspw_files import make_vspw

from harness.config import plugins
from harness.tools.check import _encoder


@pytest.mark.parametrize(("model", "side"), [("vit_tiny_patch16_224", 32), ("eva02_tiny_patch14_224", 224)])
def test_an_encoder_is_tried_on_a_window_that_suits_its_model(model, side):
    module = plugins.load("encoders", "timm_plain")
    path = plugins.find("encoders", "timm_plain")
    subject = _encoder.Subject("timm_plain", path, module, (), module.Config(model=model))
    assert subject.size == side
    assert "is refused" in _encoder.window(subject)
    assert "deepest" in _encoder.levels(subject)


def test_encoders_hold_and_wrong_strides_are_named(tmp_path):
    assert broken(run("beit", kind="encoders", leave_out=(RANKS,))) == {}
    source = plugins.find("encoders", "beit").read_text()
    write(
        tmp_path,
        "encoders",
        "flat",
        source.replace("tap_pyramid(width)", "tap_pyramid(width)[:3].append(nn.Identity())"),
    )
    write(tmp_path, "encoders", "deep", source.replace('return int(parameter_name.split(".")[2]) + 1', "return 99"))
    unsaved = source.replace(
        "        self.pyramid = ", "        self.drawn = float(torch.rand(1))\n        self.pyramid = "
    )
    write(
        tmp_path,
        "encoders",
        "unsaved",
        unsaved.replace(
            "intermediates_only=True)", "intermediates_only=True)\n        taps = [tap * self.drawn for tap in taps]"
        ),
    )
    training = (*TRAINING, RANKS)
    flat, deep, unsaved = (broken(run(name, [tmp_path], "encoders", training)) for name in ("flat", "deep", "unsaved"))
    assert list(unsaved) == ["weights survive a round trip"]
    assert "some state is in no state_dict()" in unsaved["weights survive a round trip"]
    assert flat == {"levels are as declared": "expected (2, 64, 1, 1) at 1/32, got (2, 64, 2, 2)"}
    assert list(deep) == ["every parameter has a depth"]
    assert "expected depths in 0..5" in deep["every parameter has a depth"]


def test_a_vspw_folder_is_known_by_the_content_of_its_files(tmp_path):
    found = run("vspw", kind="datasets", given={"root": str(make_vspw(tmp_path))})
    text = found["digests depend on content, not on location"].text
    assert "moved root" in text
    assert "by content: 18 files of 9 train frames, 12 files of 6 val frames" in text


def test_a_data_set_whose_files_are_not_listed_is_told(tmp_path, monkeypatch):
    monkeypatch.delattr("harness.data.datasets.vspw.Dataset.split_files")
    found = run("vspw", kind="datasets", given={"root": str(make_vspw(tmp_path))})
    assert "changes to images and masks go unnoticed" in found["digests depend on content, not on location"].text
    assert broken(found) == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "what", "text"),
    [
        (
            "wide",
            "return Frame(drawn.image, None) if",
            "drawn = drawn._replace(label=drawn.label.astype(np.int64))\n        return Frame(drawn.image, None) if",
            "images and labels have the right form",
            "expected the label in uint8",
        ),
        (
            "high",
            "return Frame(drawn.image, None) if",
            "drawn.label[drawn.label == 255] = 200\n        return Frame(drawn.image, None) if",
            "images and labels have the right form",
            "expected labels in 0..7 or 255, got [200]",
        ),
        (
            "unsorted",
            'tuple(f"{time:04d}" for time in range(self.config.frames))',
            'tuple(f"{time:04d}" for time in range(self.config.frames))[::-1]',
            "frames are in temporal order",
            "expected frames by number",
        ),
        (
            "fewer",
            'return int(getattr(self.config, f"{split}_videos"))',
            'return int(getattr(self.config, f"{split}_videos")) - 1',
            "videos match the plan",
            "",
        ),
        (
            "heavy",
            "import numpy as np\n",
            "import numpy as np\nimport torch\n",
            "planning needs neither torch nor data",
            "expected the file to import without torch",
        ),
    ],
    ids=["wide", "high", "unsorted", "fewer", "heavy"],
)
def test_broken_data_sets_are_named(tmp_path, name, old, new, what, text):
    source = plugins.find("datasets", "synthetic").read_text()
    assert old in source
    if name == "fewer":  # `videos` counts by itself
        source = source.replace(
            "for index in range(self.planned(split)))", "for index in range(self.planned(split) + 1))"
        )
    write(tmp_path, "datasets", name, source.replace(old, new, 1))
    found = broken(run(name, [tmp_path], "datasets"))
    assert what in found
    assert text in found[what]
