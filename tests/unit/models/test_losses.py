"""Dice, Lovász and hard pixels against slow, obvious code; sums of parts are the sum of the whole."""

import math

import pytest
import torch

from models import losses

K, VOID = 5, 255


def case(seed=0, images=3, height=6, width=7):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, K, height, width, generator=draw, dtype=torch.float64) * 2
    labels = torch.randint(0, K - 1, (images, height, width), generator=draw)  # a class that no image has
    labels[0, :3] = VOID
    labels[1, :, 2:][labels[1, :, 2:] == 2] = 0  # fewer of one class
    labels[-1] = VOID  # an image without labels
    return logits.float(), labels


def pixels_of(logits, labels):
    """Image by image: (probabilities by class, label) of each labelled pixel, as plain numbers."""
    for scores, target in zip(logits.softmax(1), labels, strict=True):
        rows = [
            ([float(scores[k, y, x]) for k in range(K)], int(target[y, x]))
            for y in range(target.shape[0])
            for x in range(target.shape[1])
            if target[y, x] != VOID
        ]
        if rows:
            yield rows


def slow_dice(logits, labels):
    images = []
    for rows in pixels_of(logits, labels):
        scores = []
        for label in {label for _, label in rows}:
            overlap = sum(p[label] for p, own in rows if own == label)
            scores.append(2 * overlap / (sum(p[label] for p, _ in rows) + sum(own == label for _, own in rows)))
        images.append(1 - sum(scores) / len(scores))
    return sum(images), len(images)


def jaccard_loss(wrong, foreground):
    """1 - the Jaccard index of a class where exactly the pixels of `wrong` are mistaken."""
    return 1 - len(foreground - wrong) / len(foreground | wrong)


def slow_lovasz(logits, labels):
    """The Lovász extension by its definition: errors in falling order times the set function's increments."""
    images = []
    for rows in pixels_of(logits, labels):
        of_classes = []
        for label in {label for _, label in rows}:
            foreground = {index for index, (_, own) in enumerate(rows) if own == label}
            errors = [abs((index in foreground) - p[label]) for index, (p, _) in enumerate(rows)]
            order = sorted(range(len(rows)), key=lambda index: -errors[index])
            total = 0.0
            for rank, index in enumerate(order):
                larger, smaller = set(order[: rank + 1]), set(order[:rank])
                total += errors[index] * (jaccard_loss(larger, foreground) - jaccard_loss(smaller, foreground))
            of_classes.append(total)
        images.append(sum(of_classes) / len(of_classes))
    return sum(images), len(images)


@pytest.mark.parametrize(("loss", "slow"), [(losses.dice, slow_dice), (losses.lovasz, slow_lovasz)])
@pytest.mark.parametrize("seed", range(3))
def test_a_term_is_what_slow_code_says(loss, slow, seed):
    logits, labels = case(seed)
    total, count = loss(logits, labels)
    expected, images = slow(logits, labels)
    assert int(count) == images == 2
    assert float(total) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", [losses.dice, losses.lovasz])
def test_a_term_is_additive_over_images_and_has_a_true_gradient(loss):
    logits, labels = case(1)
    parts = [loss(logits[index : index + 1], labels[index : index + 1]) for index in range(3)]
    whole = loss(logits, labels)
    assert float(sum(total for total, _ in parts)) == pytest.approx(float(whole[0]), abs=1e-6)
    assert sum(int(count) for _, count in parts) == int(whole[1])
    probe = logits.clone().requires_grad_()
    loss(probe, labels)[0].backward()
    moved = logits.clone()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    step = 1e-3
    high, low = (float(loss(moved + sign * step * direction, labels)[0]) for sign in (1, -1))
    assert (high - low) / (2 * step) == pytest.approx(float((probe.grad * direction).sum()), rel=2e-2, abs=1e-3)
    assert not probe.grad[-1].any()


@pytest.mark.parametrize("loss", [losses.dice, losses.lovasz])
def test_right_is_0_and_wrong_is_1(loss):
    labels = torch.tensor([[[0, 0, 1, 1], [2, 2, 2, VOID]]])
    known = labels.clamp_max(K - 1)
    right = 100 * torch.nn.functional.one_hot(known, K).permute(0, 3, 1, 2).float()
    assert float(loss(right, labels)[0]) == pytest.approx(0, abs=1e-6)
    assert float(loss(right.roll(1, 1), labels)[0]) == pytest.approx(1, abs=1e-6)


def slow_hard(logits, labels, threshold):
    kept = torch.zeros(labels.shape, dtype=torch.bool)
    for image, (scores, target) in enumerate(zip(logits.softmax(1), labels, strict=True)):
        own = {
            (y, x): float(scores[target[y, x], y, x])
            for y in range(target.shape[0])
            for x in range(target.shape[1])
            if target[y, x] != VOID
        }
        least = math.ceil(len(own) / 16)
        for position in [place for place, p in own.items() if p < threshold] + sorted(own, key=own.get)[:least]:
            kept[image][position] = True
    return kept


@pytest.mark.parametrize("threshold", [1e-9, 0.3, 0.7, 1.0])
def test_hard_pixels_are_below_the_threshold_and_a_sixteenth_at_least(threshold):
    logits, labels = case(2, height=9, width=11)
    kept = losses.hard_pixels(logits, labels, threshold)
    assert torch.equal(kept, slow_hard(logits, labels, threshold))
    assert not kept[labels == VOID].any()
    if threshold == 1e-9:
        assert kept.flatten(1).sum(1).tolist() == [math.ceil(int((image != VOID).sum()) / 16) for image in labels]
    assert threshold != 1.0 or torch.equal(kept, labels != VOID)


def test_hard_pixels_of_an_image_do_not_depend_on_the_others():
    logits, labels = case(4)
    alone = torch.cat([losses.hard_pixels(logits[i : i + 1], labels[i : i + 1], 0.2) for i in range(3)])
    assert torch.equal(losses.hard_pixels(logits, labels, 0.2), alone)


def test_weighted_cross_entropy_is_torchs_mean():
    logits, labels = case(5)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    mean = losses.cross_entropy_sum(logits, labels, weights) / losses.weight_sum(labels, weights)
    assert float(mean) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels, weights, ignore_index=VOID)), rel=1e-6
    )
    assert int(losses.weight_sum(labels, None)) == int((labels != VOID).sum())
