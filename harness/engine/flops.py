"""FLOPs and parameters of jobs, without weights or memory: models are built and run on torch's fake tensors.

(They are meta tensors that name a device, which autocast inside the models asks for.)

Reads a JSON list of job descriptions from stdin (job.yaml's content, "classes", and for an evaluation its members'
as "of") and prints {fingerprint: {"flops", "parameters"}}. FLOPs are of an iteration for a training: forward, twice as
much backward, and the pass without gradient that makes frame N-1's mask, where the decoder takes it; and of a video of
mean length with all members, windows and views for an evaluation. A finished evaluation keeps those of a frame
(evaluation_cost), counted with its own models.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from harness.common.errors import UnfitError
from harness.data import contract
from harness.engine import build, sliding_window
from harness.engine.sliding_window import Geometry
from harness.plan.spec import EvaluateSpec, TrainSpec, from_json
from models.segmentor import Segmentor

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def main() -> int:
    """Answer what stdin asks; a job whose data are not at hand gets no answer."""
    answers = {}
    for content in json.load(sys.stdin):
        job, classes = from_json(content), content["classes"]
        members = [spec for member in content["of"] if isinstance(spec := from_json(member), TrainSpec)]
        try:
            count = training(job, classes) if isinstance(job, TrainSpec) else evaluation(job, members, classes)
        except UnfitError:
            continue
        answers[job.fingerprint] = count
    print(json.dumps(answers))
    return 0


def fake_model(job: TrainSpec, classes: int) -> tuple[Segmentor, FakeTensorMode]:
    """Return the job's model without storage: built on meta, then said to be on the CPU."""
    with torch.device("meta"):
        model = build.segmentor(job, classes)
    mode = FakeTensorMode()
    with mode:
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=value.dtype)))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model.eval(), mode


def attention(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Count softmax(Q Kᵀ) V, shapes (B, heads, positions, channels): torch counts its CPU kernel as nothing."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


def counter() -> FlopCounterMode:
    """Return torch's counter, attention on a CPU included."""
    return FlopCounterMode(display=False, custom_mapping={KERNEL: attention})


class Flops(NamedTuple):
    """Of a window or a frame: the encoder, what a decoder does once, and what it does for every stage."""

    features: int
    encode: int
    predict: int

    def total(self, stages: int = 1) -> int:
        """Count what is predicted for a number of stages."""
        return self.features + self.encode + self.predict * stages


def passes(model: Segmentor, height: int, width: int) -> Flops:
    """Return the FLOPs of one image's passes."""
    with torch.no_grad():  # in inference mode each operation is taken apart again, which takes twice as long
        image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
        with counter() as features_counter:
            features = model.features(image)
        with counter() as encode_counter:
            cache = model.decoder.encode(features, (features,) * len(model.decoder.past))
        with counter() as predict_counter:
            model.decoder.predict(cache, torch.zeros(1, height, width, dtype=torch.long, device=image.device))
    return Flops(*(counted.get_total_flops() for counted in (features_counter, encode_counter, predict_counter)))


def training(job: TrainSpec, classes: int) -> dict[str, float]:
    """Count one iteration."""
    model, mode = fake_model(job, classes)
    with mode:
        window = passes(model, job.train.crop, job.train.crop)
    decoder = model.decoder
    past = window.features * len(decoder.past)
    with_gradient = 3 * (window.total() + (past if decoder.past_grad else 0))
    without = window.total() * (1 - decoder.gt_warmup) if decoder.prior == "previous" else 0
    without += 0 if decoder.past_grad else past
    flops = job.train.batch * (with_gradient + without)
    return {"flops": flops, "parameters": size(model)}


def evaluation(job: EvaluateSpec, members: Sequence[TrainSpec], classes: int) -> dict[str, float]:
    """Count one video: windows of its first frame, mean number of frames. Raise UnfitError without data."""
    dataset, split = build.dataset(job.data, job.plugins), job.split
    videos = contract.evaluated_videos(dataset, split)
    frames = [contract.evaluated(dataset, split, video) for video in videos]
    height, width = dataset.read(split, videos[0], frames[0][0]).image.shape[:2]
    geometry = sliding_window.geometry(job.evaluate, job.scales, job.flip)
    flops = parameters = 0
    for member in members:
        model, mode = fake_model(member, classes)
        parameters += size(model)
        with mode:
            flops += frame(model, geometry, height, width).total(1 + job.stage)
    return {"flops": flops * sum(map(len, frames)) / len(videos), "parameters": parameters}


def frame(model: Segmentor, geometry: Geometry, height: int, width: int) -> Flops:
    """Count all windows and views of a frame of height × width pixels; no window is left out by an early exit."""
    encoder: Any = model.encoder
    tiles = sliding_window.tiles(height, width, geometry, sliding_window.WindowSize(encoder.size, encoder.multiple))
    shapes = Counter((tile.height, tile.width) for tile in tiles)
    counts = [[number * part for part in passes(model, *shape)] for shape, number in shapes.items()]
    return Flops(*map(sum, zip(*counts, strict=True)))


def size(model: Segmentor) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
