"""The memory of a training step on one rank, found without it: the step is run on torch's fake tensors.

Counted are the bytes of every tensor that is alive: weights, buffers, gradients, AdamW's moments, feature maps and what
an operation leaves; not what a kernel takes inside, nor a GPU's context and its allocator's slack. A memory's class
sums are left out, whose shapes depend on the images' classes; they are taken when less is held than at the peak.

As a program it reads {"jobs": [[job.yaml's content, classes]], "world", "limit"} from stdin and prints a line a job:
{"peak", "change": [key=value …, peak] or null}, or {"reason"}.
"""

import json
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.common.atomic_files import JsonObject
from harness.data.stream import Batch
from harness.engine import averaging, flops, freezing, low_rank, optim
from harness.engine.runtime import Rank
from harness.engine.train import Trainer
from harness.plan.spec import TrainSpec, from_json

PROGRESS = 0.999  # of the schedule: a decoder takes its own mask as P by then


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._storages: dict[int, Any] = {}

    def add(self, tensors: Iterable[Any]) -> None:
        """Count the storages of tensors until they are freed; other values are passed over."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._storages:
                    self._count(storage._cdata, storage.nbytes(), storage)
        self.peak = max(self.peak, self.now)

    def _count(self, key: int, size: int, storage: torch.UntypedStorage) -> None:
        def freed(_: Any) -> None:
            self.now -= size
            del self._storages[key]

        self.now += size
        self._storages[key] = weakref.ref(storage, freed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result


def peak(job: TrainSpec, num_classes: int, world: int = 1) -> int:
    """Return the most bytes that a rank of `world` holds in a step. Raise what a decoder raises without values."""
    if job.precision == "fp16":  # which a CPU refuses; of the same size
        job = replace(job, precision="bf16")
    with torch.device("meta"):
        trainer = Trainer(job, num_classes, Rank(0, 1, torch.device("cpu"), 1))
    trainer.model, mode = flops.fake_model(job, num_classes)
    trainer.net = trainer.model
    trainer.class_weights = None  # K numbers
    memory = getattr(trainer.model.decoder, "memory", None)
    if memory is not None:
        memory.sums = lambda *_: None
    with mode:
        return step(trainer, max(1, (job.train.micro_batch or job.train.batch) // world))


def step(trainer: Trainer, images: int) -> int:
    """Return the peak of a step with so many images a micro-batch, once AdamW has its moments."""
    model = trainer.model
    low_rank.adapt(model, trainer.job.train.lora)
    freezing.freeze(model, trainer.job.train.freeze)
    model.train()
    if images == 1:  # batch norm's statistics over ranks, of which there is one here
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    trainer.optimizer = optim.adamw(model, trainer.job.train)
    average = averaging.average(model, trainer.job.train.ema)
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    live = LiveBytes()
    for held in (model, *filter(None, [average])):
        live.add([*held.parameters(), *held.buffers()])
    batch = blank(images, len(trainer.offsets), trainer.job.train.crop)
    with live:
        trainer.backward(batch, 1, PROGRESS)
        trainer.optimizer.step()  # makes the moments
        trainer.optimizer.zero_grad(set_to_none=True)
        for _ in range(min(2, trainer.plan.accumulation)):  # later micro-batches add to gradients that are there
            trainer.backward(batch, 1, PROGRESS)
        trainer.optimizer.step()
    return live.peak


def blank(images: int, frames: int, crop: int) -> Batch:
    """Return a batch without content."""
    return Batch(
        frames=torch.zeros(images, frames, 3, crop, crop, dtype=torch.uint8),
        labels=torch.zeros(images, frames, crop, crop, dtype=torch.uint8),
        keys=torch.zeros(images, dtype=torch.int64),
        names=("",) * images,
    )


def main() -> int:
    """Answer what stdin asks."""
    question = json.load(sys.stdin)
    world, limit = question["world"], question["limit"]
    for content, classes in question["jobs"]:
        job = from_json(content)
        assert isinstance(job, TrainSpec)
        try:
            held = peak(job, classes, world)
            change = None if held <= limit else fitting(job, classes, world, limit)
            answer: JsonObject = {"peak": held, "change": change}
        except Exception as error:  # anything that somebody's model does with tensors that hold no values
            answer = {"reason": next(iter(str(error).splitlines()), type(error).__name__)}
        print(json.dumps(answer), flush=True)
    return 0


def fitting(job: TrainSpec, num_classes: int, world: int, limit: float) -> tuple[str, int] | None:
    """Return the least change that brings a job's peak to `limit` bytes, in words, and that peak; None if none does.

    Activation checkpointing changes no number; a smaller micro-batch does: batch norm takes its statistics over it.
    """
    for words, changed in changes(job, world):
        if (held := peak(changed, num_classes, world)) <= limit:
            return words, held
    return None


def changes(job: TrainSpec, world: int) -> Iterator[tuple[str, TrainSpec]]:
    """Yield a job with checkpointing, then with ever smaller micro-batches, each with checkpointing too."""
    encoder, key = job.encoder, f"encoder.{job.encoder.name}.checkpoint=true"
    starts = [("", job)]
    if encoder.config.get("checkpoint") is False:
        sparing = replace(job, encoder=replace(encoder, config={**encoder.config, "checkpoint": True}))
        starts.append((f"{key} ", sparing))
        yield key, sparing
    micro_batch = job.train.micro_batch or job.train.batch
    while micro_batch % (2 * world) == 0 and micro_batch > 2:  # batch norm cannot do with one image
        micro_batch //= 2
        for prefix, start in starts:
            train = replace(start.train, micro_batch=micro_batch)
            yield f"{prefix}train.micro_batch={micro_batch}", replace(start, train=train)
