"""Exact: VC against the oracle and against the official loops, whatever a video's length and labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.results.metrics import Consistency, consistency

ORACLE = json.loads((Path(__file__).parents[2] / "data" / "oracle.json").read_text())["vc"]
CLASSES = 4


def totals(truth, masks, windows):
    scores_of_video = Consistency(CLASSES, windows)
    for one, other in zip(truth, masks, strict=True):
        scores_of_video.add(np.asarray(one, np.uint8).reshape(1, -1), np.asarray(other, np.uint8).reshape(1, -1))
    return scores_of_video.totals


def loops(truth, masks, frames, strict):
    """Scores of the windows by O(L · n) comparisons, as the official script has them."""
    scores = []
    for first in range(len(truth) - frames + (1 if strict else 0)):
        window = slice(first, first + frames)
        stable = (truth[window] == truth[first]).all(0)
        kept = (masks[window] == masks[first]).all(0)
        if strict:
            stable &= truth[first] < CLASSES
            kept &= masks[first] == truth[first]
        if stable.any():
            scores.append((stable & kept).sum() / stable.sum())
    return scores


@pytest.mark.parametrize("frames", [2, 3])
def test_the_oracles_case(frames):
    given, expected = ORACLE["inputs"], ORACLE["expected"]
    found = consistency([totals(given["gt"], given["pred"], (frames,))], (frames,))
    assert found[f"mvc{frames}"] == pytest.approx(expected[f"n{frames}_official"]["mean"], abs=1e-11)


@st.composite
def videos(draw):
    """Videos of a few frames whose labels seldom change, void among them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    length, pixels = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    steady = draw(st.sampled_from([0.3, 0.8, 0.95, 1.0]))

    def labels(values):
        frames = generator.choice(values, (length, pixels))
        for frame in range(1, length):
            same = generator.random(pixels) < steady
            frames[frame] = np.where(same, frames[frame - 1], frames[frame])
        return frames.astype(np.uint8)

    return labels([0, 1, 2, 3, 255]), labels([0, 1, 2, 3])


@settings(max_examples=150, deadline=None)
@given(st.lists(videos(), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))
def test_run_lengths_equal_the_official_loops(pool, windows):
    found = consistency([totals(*video, windows) for video in pool], windows)
    for frames in windows:
        for suffix, strict in (("", False), ("_strict", True)):
            scores = [score for truth, masks in pool for score in loops(truth, masks, frames, strict)]
            name = f"mvc{frames}{suffix}"
            assert (name in found) == bool(scores)
            if scores:
                assert found[name] == pytest.approx(np.mean(scores), abs=1e-12)


def test_a_prediction_may_be_wrong_as_long_as_it_is_constant():
    truth, masks = np.zeros((10, 3), np.uint8), np.ones((10, 3), np.uint8)
    assert consistency([totals(truth, masks, (8,))], (8,)) == {"mvc8": 1.0, "mvc8_strict": 0.0}
    void = np.full((10, 3), 255, np.uint8)
    assert consistency([totals(void, masks, (8,))], (8,)) == {"mvc8": 1.0}


def test_frames_of_another_size_begin_anew():
    scores_of_video = Consistency(CLASSES, (2,))
    for pixels in (3, 3, 5, 5, 5):
        scores_of_video.add(np.zeros((1, pixels), np.uint8), np.zeros((1, pixels), np.uint8))
    assert scores_of_video.totals[1, 0].tolist() == [
        3.0,
        3.0,
    ]  # of four windows the one across sizes has no constant pixel


def test_what_is_kept_does_not_grow_with_frames():
    scores_of_video = Consistency(CLASSES)

    def kept():
        return sum(
            value.nbytes
            for value in (
                *scores_of_video._last,
                *scores_of_video._runs,
                scores_of_video.totals,
                scores_of_video._last_scores,
            )
        )

    frame = np.zeros((20, 30), np.uint8)
    scores_of_video.add(frame, frame)
    after_one = kept()
    for _ in range(300):
        scores_of_video.add(frame, frame)
    assert kept() == after_one
    assert scores_of_video.totals[0, 0].tolist() == [293.0, 293.0]  # 301 - 8 official windows, all constant


def test_nothing_counted_has_no_number():
    assert consistency([]) == {}
    assert consistency([Consistency(CLASSES).totals]) == {}
