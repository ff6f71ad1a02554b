"""Frames in time: by the one number in which their names differ, else by name; and what a gap does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vspw_files import make_vspw

from harness.data import contract, frame_order
from harness.data.datasets import vspw
from harness.data.hold_out import HoldOut
from harness.data.stream import TrainStream
from harness.engine import evaluate, prior_sources
from harness.engine.runtime import Stop


@given(st.text("ab1_-", max_size=4), st.sets(st.integers(0, 2000), min_size=1, max_size=20), st.integers(1, 5))
def test_numbers_are_in_order_at_any_width(prefix, found, width):
    before = prefix.rstrip("1") + "_"
    names = [f"{before}{number:0{width}d}.x" for number in found]
    assert frame_order.in_time(names) == [f"{before}{number:0{width}d}.x" for number in sorted(found)]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["frame10", "frame2", "frame1"], ["frame1", "frame2", "frame10"]),
        (["cam2_f10", "cam2_f9"], ["cam2_f9", "cam2_f10"]),
        (["99", "100", "01"], ["01", "99", "100"]),
        (["a1_10", "a2_9"], ["a1_10", "a2_9"]),  # two numbers change
        (["t0.5", "t0.25"], ["t0.25", "t0.5"]),  # decimals
        (["1", "01", "2", "10"], ["01", "1", "10", "2"]),  # one number twice
        (["a10", "b9"], ["a10", "b9"]),
        (["x"], ["x"]),
        ([], []),
    ],
)
def test_order(names, wanted):
    assert frame_order.in_time(names) == wanted


@pytest.mark.parametrize(
    ("names", "after"),
    [
        ("1 2 3 4", ""),
        ("1 2 3 5 6 9", "5 9"),
        ("30 60 90 150", "150"),
        ("33 67 100 133 200", "200"),  # milliseconds
        ("1 9", ""),
        ("a b c", ""),
    ],
)
def test_gaps(names, after):
    assert frame_order.after_gaps(names.split()) == after.split()


@pytest.fixture
def root(tmp_path):
    root = make_vspw(tmp_path / "made", videos={"train": 2, "val": 1, "test": 1}, frames=12)
    for path in list(root.glob("data/*/*/*.*")):
        path.rename(path.with_name(f"frame{int(path.stem)}{path.suffix}"))
    for video in (root / "data").iterdir():  # frame 5 is left out
        for path in video.glob("*/frame5.*"):
            path.unlink()
    return root


def test_frames_without_leading_zeros(root):
    data = vspw.Dataset(vspw.Config(root=str(root)))
    assert data.frames("val", "val_00000") == tuple(f"frame{n}" for n in range(12) if n != 5)
    assert data.starts("val", "val_00000") == frozenset()
    assert contract.starts(data, "val", "val_00000") == {"frame0"}


def before(data):
    """Frame -> the frame before it, in 200 training samples of frames whose labels are their number."""
    data.read = lambda split, video, frame: contract.Frame(
        np.zeros((8, 8, 3), np.uint8), np.full((8, 8), int(frame.removeprefix("frame")), np.uint8)
    )
    stream = TrainStream(data, offsets=(-1, 0), crop=8, short_side=8, seed=0)
    clips = [
        np.where(labels == 255, 0, labels).max((1, 2)) for labels in (stream[n].labels.numpy() for n in range(200))
    ]
    return {int(current): int(earlier) for earlier, current in clips}


@pytest.mark.parametrize("held_out", [False, True])
def test_a_gap_is_a_neighbour_or_a_start(root, held_out):
    known = {}
    for gap in (None, "start"):
        data = vspw.Dataset(vspw.Config(root=str(root), gap=gap))
        known[gap] = before(HoldOut(data, 0.5) if held_out else data)
    neighbours = {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 6: 4, 7: 6, 8: 7, 9: 8, 10: 9, 11: 10}
    assert known[None] == neighbours
    assert known["start"] == neighbours | {6: 6}


class Counting:
    """Stages that count how often a video begins."""

    def __init__(self):
        self.begun = 0

    def start(self):
        self.begun += 1


@pytest.mark.parametrize(("gap", "begun", "before"), [(None, 1, "frame4"), ("start", 2, "frame6")])
def test_an_evaluation_begins_anew_after_a_gap(root, gap, begun, before):
    data, stages, stop = vspw.Dataset(vspw.Config(root=str(root), gap=gap)), Counting(), Stop()
    evaluate.run_video([], {None: stages}, data, "val", "val_00000", torch.device("cpu"), stop)
    assert stages.begun == begun
    frame = data.read("val", "val_00000", "frame6")
    found = prior_sources.labelled_frame("truth_before", data, "val", Path("val_00000/frame6.png"), frame)
    np.testing.assert_array_equal(found.label, data.read("val", "val_00000", before).label)


def test_gap_at_its_default_is_no_part_of_an_identity():
    from harness.config.compose import used

    assert used(vars(vspw.Config()), vspw.Config) == {}
    assert used(vars(vspw.Config(gap="start")), vspw.Config) == {"gap": "start"}
