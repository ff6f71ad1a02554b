import pytest
import torch
import torch.nn.functional as F

from harness.common.errors import UnfitError
from harness.config.sections import EvaluateConfig
from harness.engine import sliding_window
from harness.engine.sliding_window import Box, Fusion, Geometry, View, WindowSize

SQUARE = WindowSize(512, 32)
FREE = WindowSize(None, 32)


def slow_slide(height, width, window, stride):
    """mmsegmentation's `slide_inference`, written out."""
    rows = max(height - window + stride - 1, 0) // stride + 1
    columns = max(width - window + stride - 1, 0) // stride + 1
    found = []
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            found.append((max(bottom - window, 0), max(right - window, 0), bottom, right))
    return found


@pytest.mark.parametrize("size", [(512, 910), (512, 512), (384, 683), (700, 1000), (20, 30), (513, 512)])
@pytest.mark.parametrize(("window", "stride"), [(512, 341), (64, 43), (100, 100)])
def test_windows_equal_the_slow_reference_and_cover_all(size, window, stride):
    found = sliding_window.boxes(*size, window, stride)
    assert found == slow_slide(*size, window, stride)
    count = torch.zeros(size)
    for box in found:
        count[box.top : box.bottom, box.left : box.right] += 1
    assert count.min() >= 1


SCALES = (0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's


def geometry(window, stride, short_side, scales=(1.0,), flip=False, small_views=None):
    options = EvaluateConfig(window=window, stride=stride, short_side=short_side, small_views=small_views)
    return sliding_window.geometry(options, tuple(scales), flip)


def test_papers_frame_takes_three_windows_and_tta_64():
    one = geometry(512, 341, 512)
    many = geometry(512, None, 512, SCALES, True, "enlarge")
    padded = geometry(512, None, 512, SCALES, True, "pad")
    assert many.stride == 341
    assert len(sliding_window.tiles(480, 853, one, SQUARE)) == 3
    assert len(sliding_window.tiles(480, 853, many, SQUARE)) == 64
    assert len(sliding_window.tiles(480, 853, padded, SQUARE)) == 68


def setr_resize(height, width, scale, window, short_side=512):
    """Height and width that unilm's multi-scale pipeline gives a frame, written out with mmcv's imrescale."""
    short = max(window, min(int(2048 * scale + 0.5), int(short_side * scale + 0.5)))
    sides = (short * height / width, short) if height > width else (short, short * width / height)
    factor = min(max(sides) / max(height, width), min(sides) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


@pytest.mark.parametrize("size", [(480, 853), (853, 480), (480, 640), (512, 512)])
def test_views_below_the_window_are_unilms(size):
    for scale in (0.5, *SCALES):
        (view,) = sliding_window.views(*size, geometry(512, 341, 512, [scale], False, "enlarge"))
        assert view[:2] == setr_resize(*size, scale, 512)


def test_scales_of_one_size_are_one_view_that_weighs_as_many():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 38) * 255
    several = geometry(32, 21, 32, [0.5, 0.75, 1.0, 1.5], True, "enlarge")
    assert [view.weight for view in sliding_window.views(24, 38, several)] == [3, 3, 1, 1]
    alone = [geometry(32, 21, 32, [scale], True) for scale in (1.0, 1.0, 1.0, 1.5)]
    expected = sum(fuse(image, one, WindowSize(32, 32)) for one in alone) / 4
    torch.testing.assert_close(fuse(image, several, WindowSize(32, 32)), expected)


def test_views_scale_the_short_side_or_the_frame_itself():
    assert sliding_window.views(480, 853, Geometry(512, 341, 512, (1.0,), False)) == [View(512, 910, False)]
    assert sliding_window.views(480, 853, Geometry(512, 341, None, (1.0, 0.5), True)) == [
        View(480, 853, False),
        View(480, 853, True),
        View(240, 427, False),
        View(240, 427, True),
    ]


def test_fixed_encoder_pads_to_its_square_and_refuses_other_windows():
    tiles = sliding_window.tiles(384, 683, Geometry(512, 341, None, (1.0,), False), SQUARE)
    assert {(tile.height, tile.width) for tile in tiles} == {(512, 512)}
    with pytest.raises(UnfitError, match=r"evaluate\.window=256"):
        sliding_window.tiles(480, 853, Geometry(256, 171, None, (1.0,), False), SQUARE)


def test_free_encoder_sees_a_frame_that_fits_in_one_pass():
    (tile,) = sliding_window.tiles(360, 480, Geometry(512, 341, None, (1.0,), False), FREE)
    assert tile.box == Box(0, 0, 360, 480)
    assert (tile.height, tile.width) == (384, 480)


COLOUR = torch.tensor([123.675, 116.28, 103.53])[:, None, None]


def test_cut_pads_below_and_right_with_a_colour_and_void():
    (tile,) = sliding_window.tiles(3, 5, Geometry(32, 21, None, (1.0,), False), FREE)
    image, mask = torch.rand(1, 3, 3, 5), torch.ones(3, 5, dtype=torch.int64)
    padded, void = sliding_window.cut(image, tile, COLOUR), sliding_window.cut_mask(mask, tile)
    assert padded.shape == (1, 3, 32, 32)
    assert torch.equal(padded[..., :3, :5], image)
    assert padded[0, :, 10, 10].tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert int((void == 1).sum()) == 15
    assert int((void == 255).sum()) == 32 * 32 - 15


def colour_model(crop):
    """Logits (1, 4, ·, ·) at a quarter of the size, from the colours alone."""
    pooled = F.avg_pool2d(crop, 4) / 64
    return torch.cat([pooled, pooled.mean(1, keepdim=True)], 1)


def fuse(image, geometry, accepts, model=colour_model):
    height, width = image.shape[-2:]
    views, fusion = sliding_window.views(height, width, geometry), Fusion(height, width, geometry)
    for tile in sliding_window.tiles(height, width, geometry, accepts):
        fusion.add(tile, model(sliding_window.cut(sliding_window.see(image, views[tile.view]), tile, COLOUR)))
    return fusion.probabilities()


def test_fusion_equals_a_slow_reference():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 40, 57) * 255
    geometry = Geometry(32, 21, None, (1.0,), False)
    total, count = torch.zeros(4, 40, 57, dtype=torch.float64), torch.zeros(40, 57)
    for top, left, bottom, right in slow_slide(40, 57, 32, 21):
        logits = F.interpolate(colour_model(image[..., top:bottom, left:right]), (32, 32), mode="bilinear")
        total[:, top:bottom, left:right] += logits[0].double().softmax(0)
        count[top:bottom, left:right] += 1
    assert torch.allclose(fuse(image, geometry, WindowSize(32, 32)).double(), total / count, atol=1e-6)


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((1.0,), True), ((0.5, 1.0, 1.5), True)])
def test_views_of_one_window_are_the_same_bits_as_sums_and_counts(scales, flip):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 37, 53) * 255
    geometry = Geometry(96, 64, None, scales, flip)
    views, total = sliding_window.views(37, 53, geometry), torch.zeros(4, 37, 53)
    for view, tile in zip(views, sliding_window.tiles(37, 53, geometry, FREE), strict=True):
        logits = colour_model(sliding_window.cut(sliding_window.see(image, view), tile, COLOUR))
        large = F.interpolate(logits, (tile.height, tile.width), mode="bilinear", align_corners=False)[0]
        part, count = torch.zeros(4, view.height, view.width), torch.zeros(view.height, view.width)
        part += large[:, : view.height, : view.width].softmax(0)
        count += 1
        mean = part.div_(count)
        if mean.shape[1:] != total.shape[1:]:
            mean = F.interpolate(mean[None], total.shape[1:], mode="bilinear", align_corners=False)[0]
        total += mean.flip(-1) if view.flip else mean
    assert torch.equal(fuse(image, geometry, FREE), total / len(views))


@pytest.mark.parametrize("classes", [1, 2, 11, 124, 256, 257])
def test_of_equally_probable_classes_the_first_is_the_label(classes):
    torch.manual_seed(classes)
    probabilities = torch.randint(0, 4, (classes, 37, 53)) / 4
    labels = sliding_window.labels(probabilities)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, probabilities.argmax(0))
    assert torch.equal(labels, probabilities.max(dim=0).indices)
    assert labels.tolist() == probabilities.numpy().argmax(0).tolist()


def test_a_pixel_without_numbers_has_the_first_label():
    probabilities = torch.tensor([[0.1, 0.9, torch.nan], [0.8, 0.1, torch.nan], [0.1, 0.0, torch.nan]])[:, None]
    assert sliding_window.labels(probabilities).tolist() == [[1, 0, 0]]
    assert torch.equal(sliding_window.labels(probabilities), probabilities.max(dim=0).indices)


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.5)])
def test_probabilities_sum_to_one(scales):
    image = torch.rand(1, 3, 40, 57) * 255
    fused = fuse(image, Geometry(32, 21, None, scales, True), WindowSize(32, 32))
    assert fused.shape == (4, 40, 57)
    assert torch.allclose(fused.sum(0), torch.ones(40, 57), atol=1e-5)


def test_mirrored_frame_has_the_mirrored_output():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 40, 57) * 255
    weight = torch.rand(4, 3, 3, 3)  # a model that is not symmetric itself

    def model(crop):
        return F.conv2d(crop / 64, weight, padding=1, stride=4)

    geometry = Geometry(32, 21, None, (1.0,), True)
    there = fuse(image, geometry, WindowSize(32, 32), model)
    assert torch.equal(fuse(image.flip(-1), geometry, WindowSize(32, 32), model).flip(-1), there)
    alone = geometry._replace(flip=False)
    assert not torch.allclose(
        fuse(image.flip(-1), alone, WindowSize(32, 32), model).flip(-1), fuse(image, alone, WindowSize(32, 32), model)
    )


def test_mask_follows_its_view():
    mask = torch.arange(12).view(3, 4)
    assert torch.equal(sliding_window.see_mask(mask, View(3, 4, True)), mask.flip(-1))
    assert torch.equal(
        sliding_window.see_mask(mask, View(6, 8, False)), mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
