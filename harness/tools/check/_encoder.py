"""The contract of an encoder (models/segmentor.py, Encoder): four levels as announced, depths, gradients, equal twice.

Shapes: B images, S × S pixels of the smallest window that is a multiple of 32 and of the encoder's own `multiple`.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.common.atomic_files import JsonObject
from harness.config.compose import PluginSpec
from harness.engine import optim
from harness.plan.spec import TrainSpec
from harness.tools.check import _ranks, _training
from harness.tools.check._result import Broken, expect
from harness.tools.check._state import nothing_lost, restored
from models import segmentor
from models.contract import Features
from models.decoders import upernet

STRIDES = (4, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The encoder at hand."""

    name: str
    path: Path
    module: ModuleType
    folders: tuple[str, ...]
    config: Any

    @cached_property
    def size(self) -> int:
        """S; where a model has another `multiple` than the class says, one that suits patches of 14 too."""
        size = math.lcm(32, int(self.module.Encoder.multiple))
        try:
            self.module.Encoder(self.config, size)
        except ValueError:
            return math.lcm(32, 14)
        return size

    def make(self, size: int | None = None, seed: int = 0) -> Any:
        """Return an encoder with the same random weights each time, in eval mode."""
        torch.manual_seed(seed)
        return self.module.Encoder(self.config, size or self.size).eval()

    def job(self, iterations: int) -> TrainSpec:
        """Return a small training of it under a narrow UPerNet."""
        encoder = PluginSpec(self.name, dataclasses.asdict(self.config))
        return _training.job(iterations, self.folders, encoder=encoder, crop=self.size)


def checks(
    name: str, path: Path, module: ModuleType, folders: tuple[str, ...], config_fields: JsonObject
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield an encoder's checks: a title, and the action that returns figures or raises."""
    subject = Subject(name, path, module, folders, module.Config(**config_fields))
    suite: dict[str, Callable[[Any], str]] = {
        "windows are as declared": window,
        "levels are as declared": levels,
        "every parameter has a depth": depths,
        "gradients reach every parameter": gradients,
        "features are repeatable": repeatable,
        "weights survive a round trip": round_trip,
        "weights load, or an error says why not": weights,
        "the loss falls in training": _training.loss_falls,
        "a video can be parsed": _training.video,
        "a resumed training is bit-identical": _training.resume,
        "two ranks match one process": _ranks.two_ranks,
    }
    for what, action in suite.items():
        yield what, partial(action, subject)


def images(size: int, width: int | None = None, batch: int = 2) -> Tensor:
    """Normalised images (B, 3, S, S)."""
    return torch.randn(batch, 3, size, width or size, generator=torch.Generator().manual_seed(0))


def window(subject: Subject) -> str:
    """`size` and `multiple` say which windows it takes, and others are refused when it is made."""
    encoder, size = subject.make(), subject.size
    expect(encoder.size in (None, size), f"expected size None or {size} when made for {size}, got {encoder.size!r}")
    if encoder.multiple > 1:
        try:
            subject.make(size + 1)
        except ValueError as error:
            return f"size {encoder.size}, multiple {encoder.multiple}; {size + 1} is refused: {error}"
        raise Broken(f"multiple is {encoder.multiple}: expected ValueError for a window of {size + 1}, none was raised")
    return f"size {encoder.size}, any window"


@torch.inference_mode()
def levels(subject: Subject) -> str:
    """Four levels at S/4 to S/32 of `channels` each, and a deepest map of `deepest_channels`."""
    encoder, size = subject.make(), subject.size
    expect(len(encoder.channels) == 4, f"expected channels of four levels, got {encoder.channels}")
    windows = [(size, size)] if encoder.size else [(size, size), (2 * size, 3 * size)]
    for height, width in windows:
        features = encoder(images(height, width))
        expect(isinstance(features, Features), f"expected models.contract.Features, got {type(features).__name__}")
        for channels, stride, level in zip(encoder.channels, STRIDES, features.levels, strict=True):
            wanted = (2, channels, height // stride, width // stride)
            expect(level.shape == wanted, f"expected {wanted} at 1/{stride}, got {tuple(level.shape)}")
        deepest = features.deepest
        fits = deepest.ndim == 4 and deepest.shape[:2] == (2, encoder.deepest_channels)
        expect(
            fits, f"expected the deepest map to be (2, {encoder.deepest_channels}, ·, ·), got {tuple(deepest.shape)}"
        )
        bad = sum(int((~value.isfinite()).sum()) for value in (*features.levels, deepest))
        expect(not bad, f"expected finite features, {bad} values are not")
    return f"channels {tuple(encoder.channels)} at 1/4 to 1/32, deepest {tuple(deepest.shape[1:])} of {windows[-1]}"


def depths(subject: Subject) -> str:
    """`layer_id` puts each parameter at a depth in 0..num_layers + 1, as layer-wise decay asks."""
    encoder = subject.make()
    top = encoder.num_layers + 1
    layers = {name: encoder.layer_id(name) for name, _ in encoder.named_parameters()}
    wrong = {name: depth for name, depth in layers.items() if type(depth) is not int or not 0 <= depth <= top}
    expect(not wrong, f"expected depths in 0..{top}, got {dict(list(wrong.items())[:3])}")
    config = upernet.Config(**_training.NARROW_UPERNET.config)
    decoder = upernet.Decoder(encoder.channels, encoder.deepest_channels, 4, config)
    groups = optim.parameter_groups(segmentor.Segmentor(encoder, decoder), 0.05, 0.9)
    scales = {round(group["lr_scale"], 4) for group in groups}
    counts = dict(sorted(Counter(layers.values()).items()))
    return f"parameters by depth {counts}; rates from {min(scales):g} to {max(scales):g} at a decay of 0.9"


def gradients(subject: Subject) -> str:
    """Every trainable parameter has a finite gradient."""
    encoder = subject.make().train()
    features = encoder(images(subject.size))
    sum(value.float().square().mean() for value in (*features.levels, features.deepest)).backward()
    trainable = [(name, value) for name, value in encoder.named_parameters() if value.requires_grad]
    without = [name for name, value in trainable if value.grad is None]
    expect(not without, f"expected a gradient for every parameter, none for {', '.join(without[:5])}")
    wild = [name for name, value in trainable if value.grad is not None and not value.grad.isfinite().all()]
    expect(not wild, f"gradients are not finite: {', '.join(wild[:5])}")
    return f"{len(trainable)} parameters, {sum(value.numel() for _, value in trainable) / 1e6:.1f} M numbers"


@torch.inference_mode()
def repeatable(subject: Subject) -> str:
    """In eval mode the same image gives bit-equal features, and nothing is changed."""
    encoder = subject.make()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        features = encoder(images(subject.size))
        runs.append((*features.levels, features.deepest))
    gap = max(float((first - second).abs().max()) for first, second in zip(*runs, strict=True))
    expect(gap == 0, f"the same image gave different features, max difference {gap:.3g}: random or stateful?")
    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, state[name])]
    expect(not moved, f"expected eval mode to leave the weights unchanged, but it changed {', '.join(moved[:3])}")
    return "max difference 0"


@torch.inference_mode()
def round_trip(subject: Subject) -> str:
    """A fresh encoder with the same state gives bit-equal features."""
    encoder = subject.make()
    fresh = restored(encoder, lambda: subject.make(seed=1))
    seen, again = encoder(images(subject.size)), fresh(images(subject.size))
    pairs = zip((*seen.levels, seen.deepest), (*again.levels, again.deepest), strict=True)
    return nothing_lost(encoder, "features", max(float((one - other).abs().max()) for one, other in pairs))


def weights(subject: Subject) -> str:
    """`load_pretrained` fills weights in, or raises what the harness turns into one line."""
    encoder = subject.make()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    try:
        encoder.load_pretrained()
    except (OSError, ValueError) as error:
        return f"not available here: {' '.join(str(error).split())[:200]}"
    changed = sum(not torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    return f"{changed} of {len(before)} tensors filled in" if changed else "the config sets none"
