"""The metrics beside mIoU, each against a reference that counts in another way."""

from collections.abc import Callable
from itertools import pairwise
from math import hypot

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torchmetrics.functional.classification import multiclass_calibration_error

from harness.config import metrics as metric_plugins
from harness.config import plugins
from harness.results import metrics
from harness.results.metric import ScoredFrame, counts_itself
from harness.results.records import RunRecord, maker, packed, unpacked
from harness.results.units import unit_totals

CLASSES, SIZE, VOID = 4, (24, 40), 255


def no_flow(*_: object) -> np.ndarray:
    raise AssertionError("nobody asked for a flow")


def frame(seed: int, first: bool = False, flow: Callable[..., np.ndarray] = no_flow, labelled: bool = True):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, CLASSES, (SIZE[0] // 8, SIZE[1] // 8))
    label = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)
    scores = rng.random((CLASSES, *SIZE)).astype(np.float32) + 0.7 * (np.arange(CLASSES)[:, None, None] == label)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=0)
    label[:3, :5] = VOID
    image = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    mask = probabilities.argmax(axis=0)
    return ScoredFrame(image, label if labelled else None, mask, first, lambda: probabilities, flow)


def counted(name: str, frames: list[ScoredFrame], **options: object):
    metric = maker(name, options)(CLASSES)
    for each in frames:
        metric.add(each)
    return metric


def test_those_of_every_evaluation_have_the_names_and_numbers_that_they_had() -> None:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 50, (CLASSES, CLASSES))
    confusion[2] = 0
    final = RunRecord(
        "f", {"a": confusion, "b": 2 * confusion}, {}, vc={"a": np.ones((2, 2, 2)), "b": np.ones((2, 2, 2))}
    ).final
    assert list(final) == [
        *("miou", "miou_nanmean", "fwiou", "accuracy", "mean_accuracy"),
        *("mvc8", "mvc16", "mvc8_strict", "mvc16_strict"),
    ]
    for name in ("miou", "miou_nanmean", "fwiou", "accuracy", "mean_accuracy"):
        assert final[name] == 100 * getattr(metrics, name)(3 * confusion)


def test_mvc_as_a_metric_is_what_evaluations_count() -> None:
    frames = [frame(seed) for seed in (1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)]
    reference = metrics.Consistency(CLASSES)
    for each in frames:
        reference.add(each.label, each.mask)
    metric = counted("mvc", frames)
    np.testing.assert_array_equal(metric.sums, reference.totals)
    assert metric.values(metric.sums)["mvc8_strict"] == metrics.consistency([reference.totals])["mvc8_strict"] < 1


def test_precision_and_recall_by_class() -> None:
    hits, truth, predicted = np.array([[3.0, 0, 5, 0], [6, 2, 5, 0], [4, 0, 10, 1]])
    metric = maker("precision_recall")(CLASSES)
    sums = np.stack([hits, truth, predicted])
    assert metric.values(sums) == {
        "precision": pytest.approx((3 / 4 + 0 + 5 / 10) / 3),
        "recall": pytest.approx(1.5 / 3),
    }
    by_class = metric.by_class(sums)
    np.testing.assert_array_equal(by_class["precision"], [0.75, np.nan, 0.5, 0])
    np.testing.assert_array_equal(by_class["recall"], [0.5, 0, 1, np.nan])


def test_ece_equals_torchmetrics() -> None:
    frames = [frame(seed) for seed in range(3)]
    metric = counted("calibration", frames)
    valid = [each.label < CLASSES for each in frames]
    rows = [each.probabilities[:, keep].T for each, keep in zip(frames, valid, strict=True)]
    labels = [each.label[keep] for each, keep in zip(frames, valid, strict=True)]
    expected = multiclass_calibration_error(
        torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(labels)).long(), CLASSES, n_bins=15
    )
    assert metric.values(metric.sums)["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert metric.better == "lower"
    assert 0.05 < float(expected) < 0.95


def test_boundary_numbers_equal_a_count_class_by_class() -> None:
    frames = [frame(seed) for seed in range(3)]
    options = {"width": 0.05, "tolerance": 0.04, "trimap": 3}
    metric = counted("boundary", frames, **options)
    width, radius = round(0.05 * hypot(*SIZE)), 0.04 * hypot(*SIZE)
    assert (width, radius > 1) == (2, True)
    sums = np.zeros((10, CLASSES))
    for each in frames:
        valid, label = each.label < CLASSES, each.label.astype(int)
        contours = {}
        for k in range(CLASSES):
            parts = [(labels == k) for labels in (label, each.mask)]
            eroded = [binary_erosion(part, np.ones((3, 3)), iterations=width) for part in parts]
            truth, mask = (part & ~inner & valid for part, inner in zip(parts, eroded, strict=True))
            sums[:3, k] += (truth & mask).sum(), truth.sum(), mask.sum()
            cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
            contours[k] = [part & ~binary_erosion(part, cross, border_value=1) & valid for part in parts]
            truth, mask = contours[k]
            near_truth, near_mask = (
                distance_transform_edt(~part) <= radius if part.any() else np.zeros(SIZE, bool)
                for part in (truth, mask)
            )
            sums[3:7, k] += mask.sum(), (mask & near_truth).sum(), truth.sum(), (truth & near_mask).sum()
        band = np.zeros(SIZE, bool)
        for k in (*range(CLASSES), VOID):
            part = label == k
            band |= part & ~binary_erosion(part, np.ones((3, 3)), iterations=3, border_value=1)
        band &= valid
        for k in range(CLASSES):
            truth, mask = band & (label == k), band & (each.mask == k)
            sums[7:, k] += (truth & mask).sum(), truth.sum(), mask.sum()
    np.testing.assert_array_equal(metric.sums, sums)
    precision, recall = sums[4] / sums[3], sums[6] / sums[5]
    values = metric.values(sums)
    assert values["boundary_f"] == pytest.approx((2 * precision * recall / (precision + recall)).mean())
    assert values["boundary_iou"] == pytest.approx((sums[0] / (sums[1] + sums[2] - sums[0])).mean())
    assert all(0 < value < 1 for value in values.values())


def test_a_perfect_mask_has_every_number_at_its_best() -> None:
    true = frame(0)
    label = np.where(true.label < CLASSES, true.label, 0)
    certain = np.eye(CLASSES, dtype=np.float32)[label].transpose(2, 0, 1)
    perfect = ScoredFrame(true.image, label, label, True, lambda: certain, no_flow)
    boundary, calibration = counted("boundary", [perfect]), counted("calibration", [perfect])
    assert set(boundary.values(boundary.sums).values()) == {1.0}
    assert calibration.values(calibration.sums) == {"ece": 0.0}


def moving(steps: int, shift: int):
    """Frames of a picture that moves right, masks that move with it, and the flow that says so."""
    wide = np.kron(np.random.default_rng(0).integers(0, CLASSES, (3, 12)), np.ones((8, 8), int))
    for index in range(steps):
        mask = np.roll(wide, index * shift, axis=1)[:, : SIZE[1]]
        field = np.zeros((*SIZE, 2), np.float32)
        field[..., 0] = shift
        yield ScoredFrame(np.zeros((*SIZE, 3), np.uint8), None, mask, index == 0, no_flow, lambda *_, f=field: f)


def test_masks_that_follow_the_flow_are_consistent_and_others_are_not() -> None:
    metric = counted("temporal_consistency", list(moving(3, shift=3)))
    assert metric.values(metric.sums) == {"tc": 1.0}
    assert metric.sums[1].sum() == 2 * SIZE[0] * (SIZE[1] - 3), "what the flow leads out of the frame is left out"
    still = ({"compute_flow": lambda *_: np.zeros((*SIZE, 2), np.float32)}, list(moving(3, shift=3)))
    frozen = [ScoredFrame(**{**vars(each), **still[0]}) for each in still[1]]
    wrong = counted("temporal_consistency", frozen)
    pairs = list(pairwise(frozen))
    hits = sum(np.bincount(a.mask[a.mask == b.mask], minlength=CLASSES) for a, b in pairs)
    truth = sum(np.bincount(a.mask.ravel(), minlength=CLASSES) for a, _ in pairs)
    predicted = sum(np.bincount(b.mask.ravel(), minlength=CLASSES) for _, b in pairs)
    np.testing.assert_array_equal(wrong.sums, [hits, truth, predicted])
    assert wrong.values(wrong.sums)["tc"] < 1


def test_a_gap_is_no_pair() -> None:
    frames = [ScoredFrame(**{**vars(each), "first": True}) for each in moving(3, shift=3)]
    assert counted("temporal_consistency", frames).sums.sum() == 0


def test_frames_without_labels_count_for_none_that_needs_them() -> None:
    for name in ("boundary", "calibration", "mvc"):
        assert counted(name, [frame(0, labelled=False)]).sums.sum() == 0


def test_the_jackknife_leaves_a_unit_out_of_the_sums() -> None:
    videos = {f"v{index}": counted("boundary", [frame(index)]).sums for index in range(4)}
    unit_of = {"v0": "r", "v1": "r", "v2": "s", "v3": "t"}
    metric = maker("boundary")(CLASSES)
    sample = unit_totals(videos, unit_of, metric).number("boundary_f")
    assert sample.names == ("r", "s", "t")
    assert sample.value == metric.values(sum(videos.values()))["boundary_f"]
    without = np.array(
        [
            metric.values(sum(sums for video, sums in videos.items() if unit_of[video] != unit))["boundary_f"]
            for unit in sample.names
        ]
    )
    np.testing.assert_allclose(sample.shares, 2 * (without.mean() - without), rtol=1e-12)


def test_a_record_keeps_own_sums_through_a_file() -> None:
    sums = {video: counted("boundary", [frame(seed)]).sums for seed, video in enumerate("ab")}
    videos = {video: np.eye(CLASSES, dtype=np.int64) for video in "ab"}
    makers = {name: maker(name) for name in ("mean_iou", "boundary", "calibration")}
    record = RunRecord("f", videos, {}, own={"boundary": sums}, makers=makers)
    again = unpacked(packed(record), "run", makers)
    assert again.final == record.final
    assert again.final["boundary_f"] == 100 * makers["boundary"](CLASSES).values(sums["a"] + sums["b"])["boundary_f"]
    assert "ece" not in again.final, "what was not counted is no number"


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_every_metric_says_its_numbers(name: str) -> None:
    metric = maker(name)(CLASSES)
    sums = metric.sums if counts_itself(metric) else np.zeros((3, CLASSES))
    assert set(metric.values(sums)) == set(metric.names)
    assert plugins.headline(plugins.find("metrics", name))


def test_those_of_every_evaluation_are_there() -> None:
    assert set(metric_plugins.ALWAYS) <= set(plugins.names("metrics"))
