"""The contract of a decoder (models/contract.py), on random features: shapes, gradients, priors, memory, weights.

Shapes: B images, K classes, H × W pixels of the image. What takes a whole training is in _training.py.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.common.atomic_files import JsonObject
from harness.config.compose import PluginSpec
from harness.engine.losses import losses
from harness.plan.spec import TrainSpec
from harness.tools.check import _cost, _losses, _ranks, _training
from harness.tools.check._batch import CHANNELS, CLASSES, DEEPEST, earlier, features, step, target
from harness.tools.check._result import expect
from harness.tools.check._state import nothing_lost, restored
from models import contract
from models.contract import VOID, Features, Target

CASES = ((2, 4, 32, 32, 32), (5, 2, 64, 96, 16), (124, 2, 96, 160, 32))  # K, B, H, W, stride of the deepest map
WIDE, NARROW = 64, 16  # a width of a Config's default from which on it is narrowed, and to what


@dataclasses.dataclass(frozen=True)
class Subject:
    """The decoder at hand, with its Config narrowed so that a check takes seconds."""

    name: str
    path: Path
    module: ModuleType
    folders: tuple[str, ...]
    config: Any

    def job(self, iterations: int) -> TrainSpec:
        """Return a small training of it on the tiny BEiT."""
        decoder = PluginSpec(self.name, dataclasses.asdict(self.config))
        return _training.job(iterations, self.folders, decoder=decoder)

    def make(self, num_classes: int = CLASSES, seed: int = 0) -> contract.Decoder:
        """Return a decoder with the same random weights each time."""
        torch.manual_seed(seed)
        decoder: contract.Decoder = self.module.Decoder(CHANNELS, DEEPEST, num_classes, self.config)
        return decoder

    def taught(self) -> contract.Decoder:
        """A decoder in eval mode whose batch statistics and memory, if any, have seen a batch."""
        decoder = self.make()
        with torch.no_grad():
            output = step(decoder)
        if output.sums is not None:
            decoder.update(output.sums, 0.5)
        return decoder.eval()


def checks(
    name: str, path: Path, module: ModuleType, folders: tuple[str, ...], config_fields: JsonObject
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield a decoder's checks: a title, and the action that returns figures or raises."""
    subject = Subject(name, path, module, folders, narrow(module, config_fields))
    suite: dict[str, Callable[[], str]] = {
        "attributes are valid": partial(attributes, subject),
        "logits have the right shape": partial(shapes, subject),
        "gradients reach every parameter": partial(gradients, subject),
        "a batch without labels does no harm": partial(no_labels, subject),
        "bf16 works": partial(half, subject),
        "predict is repeatable": partial(repeatable, subject),
        "priors are used as declared": partial(priors, subject),
        "update changes buffers only": partial(update, subject),
        "sums of parts equal sums of the batch": partial(sums, subject),
        "losses of its own add up": partial(own_losses, subject),
        "weights survive a round trip": partial(round_trip, subject),
        "the loss falls in training": partial(_training.loss_falls, subject),
        "a video can be parsed": partial(_training.video, subject),
        "a resumed training is bit-identical": partial(_training.resume, subject),
        "two ranks match one process": partial(_ranks.two_ranks, subject),
        "its cost": lambda: _cost.cost(module, subject.config, module.Config(**config_fields)),
    }
    yield from suite.items()


def narrow(module: ModuleType, config_fields: JsonObject) -> Any:
    """Return the Config with wide defaults made narrow; as it is where the decoder cannot be made so."""
    whole = module.Config(**config_fields)
    wide = {
        field.name: NARROW
        for field in dataclasses.fields(whole)
        if field.name not in config_fields
        and type(getattr(whole, field.name)) is int
        and getattr(whole, field.name) >= WIDE
    }
    small = dataclasses.replace(whole, **wide)
    try:
        module.Decoder(CHANNELS, DEEPEST, CLASSES, small)
    except Exception:  # widths that belong together, say: its own defaults are the ones to check
        return whole
    return small


def backward(output: contract.Output, aim: Target) -> float:
    """Return the trainer's loss of an output; gradients are added to the parameters'."""
    loss = losses(output, aim.labels, int((aim.labels != VOID).sum()))["loss"]
    torch.autograd.backward(loss)
    return float(loss.detach())


def cached(decoder: contract.Decoder, *shape: int) -> Any:
    """Return the decoder's cache of random features."""
    return decoder.encode(features(*shape), earlier(decoder, *shape))


def tensors(value: Any) -> list[Tensor]:
    """Return all tensors of nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def finite(what: str, *values: Tensor) -> None:
    """Raise Broken where a value is not finite."""
    bad = sum(int((~value.isfinite()).sum()) for value in values)
    expect(not bad, f"expected {what} to be finite, {bad} of {sum(value.numel() for value in values)} values are not")


def difference(first: Tensor, second: Tensor) -> float:
    """Return the greatest absolute difference."""
    return float((first.float() - second.float()).abs().max()) if first.numel() else 0.0


def attributes(subject: Subject) -> str:
    """The class attributes have the values that trainer and evaluator understand."""
    decoder = subject.make()
    expect(isinstance(decoder, contract.Decoder), "expected Decoder to be a subclass of models.contract.Decoder")
    expect(decoder.prior in ("none", "previous", "own"), f"prior is {decoder.prior!r}, not none, previous or own")
    past = decoder.past
    expect(isinstance(past, tuple) and all(type(offset) is int and offset < 0 for offset in past), f"past is {past!r}")
    expect(list(past) == sorted(set(past)), f"past is {past}: expected each offset once, oldest first")
    expect(0 <= decoder.gt_warmup <= 1, f"gt_warmup is {decoder.gt_warmup}, not a share of training in 0..1")
    moments = [decoder.momentum_at(tenth / 10) for tenth in range(11)]
    expect(all(0 <= value <= 1 for value in moments), f"momentum_at leaves 0..1: {moments}")
    return f"past {past}, prior {decoder.prior}, gt_warmup {decoder.gt_warmup:g}; checked with {subject.config}"


def shapes(subject: Subject) -> str:
    """Logits are (B, K, ·, ·), in training and for one image, for any K and any window."""
    shapes_of_cases = []
    for num_classes, batch, height, width, stride in CASES:
        decoder, aim = subject.make(num_classes), target(batch, height, width, num_classes)
        shape = (batch, height, width, stride)
        output = decoder.train()(features(*shape), earlier(decoder, *shape), aim.labels, aim)
        single = (1, height, width, stride)
        with torch.inference_mode():
            decoder.eval()
            alone = decoder.predict(cached(decoder, *single), torch.zeros(1, height, width, dtype=torch.long))
        outputs = [("forward", output.logits, batch), ("predict", alone, 1)]
        outputs += [(f"auxiliary {auxiliary.name!r}", auxiliary.logits, batch) for auxiliary in output.auxiliary]
        for what, logits, images in outputs:
            came = f"{what} gave {tuple(logits.shape)} {logits.dtype} for {images} images of {height} × {width}"
            expect(logits.ndim == 4 and logits.shape[:2] == (images, num_classes), f"{came}, K = {num_classes}")
            expect(logits.is_floating_point(), came)
            finite(f"the logits of {what}", logits.detach())
        names = [auxiliary.name for auxiliary in output.auxiliary]
        expect(len({*names, "loss"}) == len(names) + 1, f"expected auxiliaries with unique names, got {names}")
        shapes_of_cases.append(f"{tuple(alone.shape)} of {height} × {width}")
    return ", ".join(shapes_of_cases)


def gradients(subject: Subject) -> str:
    """Every trainable parameter has a finite gradient in some step of a training; so have the features."""
    decoder, aim = subject.make(), target()
    losses = []
    ground_truth = [aim.labels] if decoder.prior != "none" else []
    for prior in [None, *ground_truth]:  # the second step reads what the first has taught the memory
        output = step(decoder, prior)
        losses.append(backward(output, aim))
        if output.sums is not None:
            decoder.update(output.sums, 0.5)
    trainable = [(name, value) for name, value in decoder.named_parameters() if value.requires_grad]
    without = [name for name, value in trainable if value.grad is None]
    expect(not without, f"expected a gradient for every parameter, none for {', '.join(without[:5])}")
    for name, value in trainable:
        assert value.grad is not None
        finite(f"the gradient of {name}", value.grad)
    zero = [name for name, value in trainable if value.grad is not None and not value.grad.any()]
    note = f"; all 0 so far: {', '.join(zero[:3])}" if zero else ""
    return f"{len(trainable)} parameters, loss {losses[-1]:.3g}{note}"


def no_labels(subject: Subject) -> str:
    """A batch of void has loss 0, finite gradients, and leaves a finite memory."""
    decoder = subject.taught().train()
    aim = Target(torch.full((4, 64, 64), VOID), torch.arange(4))
    # P as frame N-1 has it; a mask without any class only comes with warm-up, and `priors` has that
    output = step(decoder, target().labels if decoder.prior == "previous" else None, aim)
    backward(output, aim)
    loss = float(losses(output._replace(further=()), aim.labels, 0)["loss"].detach())
    expect(loss == 0, f"expected loss 0 for a batch without labels, got {loss}")
    finite("the gradients", *(value.grad for value in decoder.parameters() if value.grad is not None))
    if output.sums is not None:
        decoder.update(output.sums, 0.5)
    finite("the buffers", *(value for value in decoder.buffers() if value.is_floating_point()))
    return "loss 0, gradients and buffers finite"


def half(subject: Subject) -> str:
    """Under bfloat16 autocast the step runs, its gradients are finite, and sums stay in float32."""
    decoder, aim = subject.make(), target()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        output = step(decoder)
    loss = backward(output, aim)
    finite("the gradients", *(value.grad for value in decoder.parameters() if value.grad is not None))
    lossy = {str(value.dtype) for value in tensors(output.sums) if value.dtype in (torch.bfloat16, torch.float16)}
    expect(not lossy, f"expected class sums in float32, got {', '.join(sorted(lossy))}")
    return f"logits {str(output.logits.dtype).removeprefix('torch.')}, loss {loss:.3g}"


@torch.inference_mode()
def repeatable(subject: Subject) -> str:
    """The same cache and prior give bit-equal logits, whatever was predicted or drawn between; nothing is changed."""
    decoder = subject.taught()
    state = {name: value.clone() for name, value in decoder.state_dict().items()}
    prior, other = target().labels, torch.zeros(4, 64, 64, dtype=torch.long)
    torch.manual_seed(1)
    cache = cached(decoder)
    before = [value.clone() for value in tensors(cache)]
    first = decoder.predict(cache, prior).clone()
    torch.manual_seed(2)
    decoder.predict(cache, other)
    for index, (now, then) in enumerate(zip(tensors(cache), before, strict=True)):
        expect(
            torch.equal(now, then),
            f"predict changed tensor {index} of the cache {tuple(now.shape)} in place, by {difference(now, then):.3g}",
        )
    again = difference(decoder.predict(cache, prior), first)
    expect(
        again == 0, f"the same cache and prior gave different logits, max difference {again:.3g}: random or stateful?"
    )
    anew = difference(decoder.predict(cached(decoder), prior), first)
    expect(anew == 0, f"recomputing the cache gave different logits, max difference {anew:.3g}: is encode random?")
    moved = [name for name, value in decoder.state_dict().items() if not torch.equal(value, state[name])]
    expect(not moved, f"expected prediction to leave the weights unchanged, but it changed {', '.join(moved[:3])}")
    return "max difference 0 from one cache and from a cache computed again"


@torch.inference_mode()
def priors(subject: Subject) -> str:
    """With no prior, a given one, and one that is void everywhere the logits are finite; "none" ignores them all."""
    decoder = subject.taught()
    cache = cached(decoder)
    zeros, ones = (torch.full((4, 64, 64), index) for index in (0, 1))
    parted = torch.cat([zeros[:, :32], ones[:, :32]], dim=1)  # two priors that name classes as often, elsewhere
    cases = {"no prior": None, "a prior": zeros, "a void prior": torch.full_like(zeros, VOID)}
    cases |= {"a prior in two halves": parted, "the halves exchanged": parted.flip(1)}
    logits = {}
    for what, prior in cases.items():
        logits[what] = decoder.predict(cache, prior).clone()
        finite(f"the logits for {what}", logits[what])
    keys = {what: decoder.prior_key(cache, prior) for what, prior in cases.items()}
    for (what, key), (than, theirs) in combinations(keys.items(), 2):
        equal = key is not None and theirs is not None and torch.equal(key, theirs)
        gap = difference(logits[what], logits[than])
        expect(
            not equal or gap == 0, f"prior_key is the same for {what} and {than}, but the logits differ by {gap:.3g}"
        )
    untaught = subject.make().eval()
    finite("the logits before training", untaught.predict(cached(untaught), zeros))
    changed = difference(logits["a prior"], decoder.predict(cache, ones))
    expect(
        decoder.prior != "none" or changed == 0,
        f'prior is "none", yet a different prior moved the logits by {changed:.3g}: say "own" or "previous"',
    )
    if decoder.prior == "none":
        return "ignored, as `prior` says"
    note = "" if changed else "; these two gave the same logits"
    return f"max difference {changed:.3g} between a prior of class 0 and one of class 1{note}"


def update(subject: Subject) -> str:
    """`forward` leaves the memory alone, `update` moves it, and nothing that a checkpoint would miss."""
    decoder = subject.make()
    with torch.no_grad():
        step(decoder)  # batch statistics have moved; from here on only the memory may
    norms = {name for name, _ in decoder.named_buffers() if name.endswith(("running_mean", "running_var", "_tracked"))}
    before = copy.deepcopy(decoder.state_dict())
    output = step(decoder)
    moved = changed_names(decoder, before) - norms
    expect(not moved, f"expected forward only to read the memory, but it changed {', '.join(sorted(moved))}")
    loose = [
        f"{name}.{key}".lstrip(".")
        for name, module in decoder.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    expect(not loose, f"{', '.join(loose)}: a tensor that is in no checkpoint; use register_buffer")
    own = type(decoder).update is not contract.Decoder.update
    if output.sums is None:
        expect(not own, "Decoder has an `update` of its own, but forward returns no sums: the memory would never move")
        return "no memory: forward returns no sums"
    expect(own, "forward returns sums, but Decoder has no `update` of its own: the memory would never move")
    before = copy.deepcopy(decoder.state_dict())
    decoder.update(output.sums, 0.5)
    moved = changed_names(decoder, before)
    parameters = moved & {name for name, _ in decoder.named_parameters()}
    expect(not parameters, f"expected update to change buffers only, but it changed {', '.join(sorted(parameters))}")
    finite("the buffers", *(value for value in decoder.buffers() if value.is_floating_point()))
    return f"moved {', '.join(sorted(moved)) or 'nothing'}"


def changed_names(decoder: contract.Decoder, before: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that are not what they were."""
    return {name for name, value in decoder.state_dict().items() if not torch.equal(value, before[name])}


@torch.no_grad()
def sums(subject: Subject) -> str:
    """Class sums are a detached NamedTuple of tensors, and those of two halves merge to those of the whole batch."""
    with torch.enable_grad():
        output = step(subject.make())
    decoder = subject.taught()
    whole = _sums(decoder, slice(0, 4))
    if whole is None:
        return "no memory: forward returns no sums"
    expect(
        isinstance(whole, tuple) and hasattr(whole, "_fields"), f"sums are a {type(whole).__name__}, not a NamedTuple"
    )
    wrong = [name for name, value in whole._asdict().items() if not isinstance(value, Tensor)]
    expect(not wrong, f"expected the fields of sums to be tensors; {', '.join(wrong)} are not")
    attached = [name for name, value in output.sums._asdict().items() if value.requires_grad]
    expect(not attached, f"expected detached sums; {', '.join(attached)} hold a graph")
    merged = _sums(decoder, slice(0, 2)).merge(_sums(decoder, slice(2, 4)))
    for name, value, parts in zip(whole._fields, whole, merged, strict=True):
        expect(value.shape == parts.shape, f"{name} is {tuple(value.shape)}, merged {tuple(parts.shape)}")
        gap, scale = difference(value, parts), float(value.abs().max()) if value.numel() else 0.0
        expect(
            gap <= 1e-4 + 1e-4 * scale, f"{name} of two halves, merged, is off by {gap:.3g} (values up to {scale:.3g})"
        )
    return f"{type(whole).__name__}({', '.join(whole._fields)}), two halves merge to the whole"


def _part(decoder: contract.Decoder, rows: slice) -> contract.Output:
    """Return the output of a part of a fixed batch, in eval mode so that no batch statistics come in."""
    aim, now = target(), features()
    past = earlier(decoder)
    parts = (Features(tuple(level[rows] for level in frame.levels), frame.deepest[rows]) for frame in (*past, now))
    *before, current = parts
    output: contract.Output = decoder(
        current, tuple(before), aim.labels[rows], Target(aim.labels[rows], aim.keys[rows])
    )
    return output


def _sums(decoder: contract.Decoder, rows: slice) -> Any:
    """Return the class sums of a part of a fixed batch."""
    return _part(decoder, rows).sums


def own_losses(subject: Subject) -> str:
    """Losses beside the cross entropies are sums over images with what they are over (models.contract.Loss)."""
    trained = step(subject.make())
    empty = Target(torch.full((4, 64, 64), VOID), torch.arange(4))
    decoder = subject.taught()
    with torch.no_grad():
        without = step(subject.make(), target().labels if decoder.prior == "previous" else None, empty)
        return _losses.further(trained, without, partial(_part, decoder))


@torch.no_grad()
def round_trip(subject: Subject) -> str:
    """A fresh decoder with the same state gives bit-equal logits."""
    decoder = subject.taught()
    fresh = restored(decoder, lambda: subject.make(seed=1))
    prior = target().labels
    gap = difference(decoder.predict(cached(decoder), prior), fresh.predict(cached(fresh), prior))
    return nothing_lost(decoder, "logits", gap)
