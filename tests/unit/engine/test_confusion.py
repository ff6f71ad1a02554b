import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from harness.engine.metrics import confusion
from harness.results import metrics

ORACLE = json.loads((Path(__file__).parents[2] / "data" / "oracle.json").read_text())["iou"]


def oracle_confusion():
    inputs = ORACLE["inputs"]
    return confusion(torch.tensor(inputs["gt"]), torch.tensor(inputs["pred"]), inputs["K"]).numpy()


def test_confusion_equals_the_oracle():
    assert oracle_confusion().tolist() == ORACLE["expected"]["confusion"]


def test_scores_equal_the_oracle():
    matrix, expected = oracle_confusion(), ORACLE["expected"]
    found = [None if np.isnan(value) else value for value in metrics.iou(matrix)]
    assert found == [None if value is None else pytest.approx(value, abs=1e-11) for value in expected["iou"]]
    assert metrics.miou(matrix) == pytest.approx(expected["miou_official"], abs=1e-11)
    assert metrics.miou_nanmean(matrix) == pytest.approx(expected["miou_nanmean_union"], abs=1e-11)
    assert metrics.fwiou(matrix) == pytest.approx(expected["fwiou"], abs=1e-11)
    assert metrics.accuracy(matrix) == pytest.approx(5 / 7)
    assert metrics.mean_accuracy(matrix) == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_confusion_equals_torchmetrics():
    torch.manual_seed(0)
    truth = torch.randint(0, 7, (3, 20, 30), dtype=torch.uint8)
    truth[:, :4] = 255
    prediction = torch.randint(0, 7, (3, 20, 30))
    reference = MulticlassConfusionMatrix(7, ignore_index=255)(prediction, truth.long())
    assert torch.equal(confusion(truth, prediction, 7), reference)


def test_miou_equals_torchmetrics_where_all_classes_have_truth():
    torch.manual_seed(1)
    truth, prediction = torch.randint(0, 5, (2000,)), torch.randint(0, 5, (2000,))
    reference = MulticlassJaccardIndex(5)(prediction, truth)
    assert metrics.miou(confusion(truth, prediction, 5).numpy()) == pytest.approx(float(reference), rel=1e-6)


def test_labels_that_are_no_class_are_void():
    truth = torch.tensor([0, 3, 4, 200, 255], dtype=torch.uint8)
    assert confusion(truth, torch.zeros(5, dtype=torch.int64), 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("stored", [torch.uint8, torch.int32, torch.int64])
def test_void_of_any_type_is_left_out(stored):
    classes = 255 if stored == torch.uint8 else 300
    generator = torch.Generator().manual_seed(0)
    high = 256 if stored == torch.uint8 else 66000
    truth = torch.where(
        torch.rand(40, 50, generator=generator) < 0.5,
        torch.randint(classes, (40, 50), generator=generator),
        torch.randint(0 if stored == torch.uint8 else -3, high, (40, 50), generator=generator),
    ).to(stored)
    prediction = torch.randint(classes, (40, 50), generator=generator)
    expected = torch.zeros(classes, classes, dtype=torch.int64)
    for row, column in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if 0 <= row < classes:
            expected[row, column] += 1
    assert torch.equal(confusion(truth, prediction, classes), expected)
    assert torch.equal(confusion(truth, prediction.to(stored), classes), expected)


def test_nothing_to_score_is_nan():
    empty = np.zeros((3, 3), np.int64)
    for score in (metrics.miou, metrics.miou_nanmean, metrics.fwiou, metrics.accuracy, metrics.mean_accuracy):
        assert np.isnan(score(empty))
