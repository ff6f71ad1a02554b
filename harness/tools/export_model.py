"""A trained network as files that run without the harness: torch.export's program, and ONNX where that is installed.

What is exported is one window of one frame, as evaluations read it: raw RGB in, class probabilities out. Windows, views
and the carrying over of masks are the caller's (docs/API.md). Left in the folder:

    model.pt2, model.onnx    the network             first.pt2, first.onnx    of a video's first frame, where P is the
    model.json               inputs, classes, and how far each file is from the network    mask of the frame before

Shapes: K classes, S the window's side, F earlier frames.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.common.atomic_files import write_json
from harness.common.errors import UnfitError, UsageError
from harness.data.pictures import shown
from harness.engine import build, checkpoint, evaluate
from harness.plan.spec import TrainSpec, read
from models.segmentor import Segmentor

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of a probability
DRAWS = 3  # inputs that are compared
ONNX = ("onnx", "onnxscript", "onnxruntime")
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Check:
    """How far a file is from the network, over all draws."""

    file: str
    largest: float  # difference of a probability
    agreeing: float  # share of pixels with the same class


class Window(nn.Module):
    """The network on a window: image (1, 3, S, S), past (F, 3, S, S), raw RGB; prior (1, S, S) of classes."""

    def __init__(self, model: Segmentor) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, past: Tensor | None = None, prior: Tensor | None = None) -> Tensor:
        """Return the probabilities.  # (1, K, S, S)"""
        decoder = self.model.decoder
        earlier = [] if past is None else [self.model.features(past[index : index + 1]) for index in range(len(past))]
        cache = decoder.encode(self.model.features(image), tuple(decoder.remember(features) for features in earlier))
        logits = decoder.predict(cache, prior).float()
        return F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False).softmax(1)


def export(training: Path, folder: Path) -> list[Check]:
    """Export a finished training into a folder. Raise UsageError; UnfitError where a file computes otherwise."""
    job = read(training)
    if not isinstance(job, TrainSpec):
        raise UsageError(
            f"{shown(training)}: is not a training; give a training's directory, as listed by `harness plan`"
        )
    classes = checkpoint.origin(training).classes or tuple(build.dataset(job.data, job.plugins).classes)
    network = Window(evaluate.filled(training, job, len(classes)).eval()).eval()
    folder.mkdir(parents=True, exist_ok=True)
    asked = [("model", True)] + ([("first", False)] if network.model.decoder.prior == "previous" else [])
    checks: list[Check] = []
    for name, with_prior in asked:
        draws = [inputs(network.model, job, len(classes), draw, with_prior) for draw in range(DRAWS)]
        checks += write(network, draws, folder, name)
    full = inputs(network.model, job, len(classes), 0, with_prior=True)
    facts = {
        "schema": 1,
        "fingerprint": job.fingerprint,
        "encoder": job.encoder.name,
        "decoder": job.decoder.name,
        "classes": classes,
        "window": job.evaluate.window,
        "past": network.model.decoder.past,
        "inputs": {key: {"shape": list(value.shape), "type": str(value.dtype)} for key, value in full.items()},
        "output": {"shape": [1, len(classes), *full["image"].shape[-2:]], "type": "torch.float32"},
        "checks": [vars(each) for each in checks],
    }
    write_json(folder / "model.json", facts)
    return checks


def inputs(model: Segmentor, job: TrainSpec, num_classes: int, draw: int, with_prior: bool) -> Inputs:
    """Return random inputs of a draw, those that the decoder reads."""
    assert job.evaluate.window is not None  # job.yaml has the default filled in
    side, random = job.evaluate.window, torch.Generator().manual_seed(draw)
    values = {"image": 255 * torch.rand(1, 3, side, side, generator=random)}
    if earlier := len(model.decoder.past):
        values["past"] = 255 * torch.rand(earlier, 3, side, side, generator=random)
    if model.decoder.prior == "previous" and with_prior:
        values["prior"] = torch.randint(0, num_classes, (1, side, side), generator=random)
    return values


def write(network: Window, draws: list[Inputs], folder: Path, name: str) -> list[Check]:
    """Write a network in every form that can be had here, each compared with it."""
    with torch.no_grad():
        expected = [network(**draw) for draw in draws]
        try:
            program = torch.export.export(network, (), dict(draws[0]))
        except Exception as error:  # of torch's own, on a decoder that asks its tensors questions
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnfitError(f"torch.export does not take this network: {why}") from error
        path = folder / f"{name}.pt2"
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
        checks = [compare(path, lambda draw: loaded(**draw), draws, expected)]
        missing = [package for package in ONNX if importlib.util.find_spec(package) is None]
        if missing:
            log.info(f"no ONNX: {', '.join(missing)} not installed (pip install 'memory-vsp-harness[onnx]')")
            return checks
        path = folder / f"{name}.onnx"
        torch.onnx.export(
            network, (), path, kwargs=dict(draws[0]), input_names=list(draws[0]), dynamo=True, verbose=False
        )
        return [*checks, compare(path, onnx_session(path), draws, expected)]


def onnx_session(path: Path) -> Callable[[Inputs], Tensor]:
    """Return an ONNX file as a function."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(draw: Inputs) -> Tensor:
        (output,) = session.run(None, {key: value.numpy() for key, value in draw.items()})
        return torch.from_numpy(output)

    return run


def compare(path: Path, run: Callable[[Inputs], Tensor], draws: list[Inputs], expected: list[Tensor]) -> Check:
    """Return how far a file is from the network. Raise UnfitError, and remove it, where that is too far."""
    outputs = [run(draw) for draw in draws]
    pairs = list(zip(outputs, expected, strict=True))
    largest = max(float((output - right).abs().max()) for output, right in pairs)
    agreeing = [float((output.argmax(1) == right.argmax(1)).float().mean()) for output, right in pairs]
    if not largest <= TOLERANCE:
        for file in (path, path.with_name(f"{path.name}.data")):
            file.unlink(missing_ok=True)
        raise UnfitError(
            f"{shown(path)}: probabilities differ from the network's by up to {largest:.2g}, more than {TOLERANCE:g}: "
            "not kept; does the decoder decide by the values of its tensors?"
        )
    return Check(path.name, largest, sum(agreeing) / len(agreeing))
