"""Windows that the encoder sees several at a time: the same masks, in fewer passes of the encoder."""

import pytest
import tiny_jobs
import torch

from harness.config.compose import DataSpec, PluginSpec
from harness.config.sections import EvaluateConfig
from harness.engine import build, evaluate
from harness.engine.multistage import Stages
from harness.engine.sliding_window import geometry, tiles

CLASSES = tiny_jobs.DATA["classes"]
VIEWS = {"one scale": ((1.0,), False), "scales and flips": ((0.75, 1.5), True)}


def seen(root, views, batch, last):
    """All stages' probabilities of every frame, the sizes of the encoder's batches, and a frame's number of windows."""
    scales, flip = views
    model = evaluate.model(root, CLASSES)
    options = EvaluateConfig(window=32, stride=12, small_views="pad", window_batch=batch)
    stages = Stages(model, geometry(options, scales, flip), "fp32", torch.device("cpu"))
    batches = []
    model.encoder.register_forward_pre_hook(lambda module, images: batches.append(len(images[0])))
    data = build.dataset(DataSpec("synthetic", tiny_jobs.DATA))
    found = []
    for name in data.frames("val", "val_0000"):
        image = torch.from_numpy(data.read("val", "val_0000", name).image).permute(2, 0, 1)[None].float()
        found += [prediction.probabilities for prediction in stages.predict(image, last)]
    return found, batches, len(tiles(*image.shape[-2:], stages.geometry, stages.accepts))


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("decoder", ["upernet", "decoder_a", "decoder_b"])
def test_batches_of_windows_give_the_masks_of_single_ones(tmp_path, decoder, views):
    root = tiny_jobs.untrained(tmp_path, decoder=decoder)
    single, ones, windows = seen(root, VIEWS[views], None, 2)
    several, batches, _ = seen(root, VIEWS[views], 3, 2)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(single, several, strict=True))
    frames = len(single) // 3
    assert ones == [1] * windows * frames
    assert batches == ([3] * (windows // 3) + ([windows % 3] if windows % 3 else [])) * frames


def test_windows_of_another_size_begin_another_batch(tmp_path):
    """A backbone that takes any size sees views below the window at their own."""
    encoder = PluginSpec("timm_pyramid", {"model": "resnet18"})
    root = tiny_jobs.untrained(tmp_path, decoder="upernet", encoder=encoder)
    model = evaluate.model(root, CLASSES)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    probabilities, batches = [], []
    model.encoder.register_forward_pre_hook(
        lambda module, images: batches.append((len(images[0]), *images[0].shape[2:]))
    )
    for batch in (None, 4):
        options = EvaluateConfig(window=64, stride=32, small_views="pad", window_batch=batch)
        stages = Stages(model, geometry(options, (0.5, 2.0), False), "fp32", torch.device("cpu"))
        probabilities += [prediction.probabilities for prediction in stages.predict(image, 0)]
    assert torch.allclose(*probabilities, atol=1e-5)
    assert batches == [(1, 32, 64)] + [(1, 64, 64)] * 15 + [(1, 32, 64)] + [(4, 64, 64)] * 3 + [(3, 64, 64)]
