"""Training: one optimiser step and one move of the memory an iteration, as a function of the iteration alone.

Shapes: B images, T frames of a clip, K classes, H × W pixels of the crop.

An iteration is `batch` samples = accumulation × micro_batch; a micro-batch is shared out over the ranks and is what
batch norm sees. All micro-batches read M_{t-1}; their class sums are merged in the batch's order and M moves once.
N ranks equal one process with the same micro_batch, and a resumed training equals one that was never stopped.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.common import machine
from harness.data.contract import Dataset
from harness.data.stream import Batch, TrainStream, loader
from harness.engine import (
    averaging,
    build,
    checkpoint,
    class_weights,
    distributed,
    error_messages,
    freezing,
    jobs,
    low_rank,
    optim,
    runtime,
    warm_start,
)
from harness.engine.checkpoint import State
from harness.engine.intermediate_evaluation import IntermediateEvaluation
from harness.engine.jobs import Ending
from harness.engine.losses import Terms, losses
from harness.engine.reporter import Reporter
from harness.engine.runtime import Rank, Stop
from harness.engine.saving import Checkpoints, finish, through
from harness.engine.selection import selection
from harness.engine.shares import plan, positions
from harness.engine.supervision import Supervision
from harness.jobdir import pruning
from harness.jobdir.paths import JobDir
from harness.plan.spec import TrainSpec, read_as
from models.contract import Target
from models.segmentor import Segmentor

VERSION = 1
SKIPS = 20  # iterations in a row that fp16's scaler may pass over: from 2^16 down to below 1


class Trainer:
    """A model in training. Raises UnfitError where the machine cannot do what the job asks."""

    def __init__(self, job: TrainSpec, num_classes: int, rank: Rank) -> None:
        self.job, self.rank = job, rank
        self.plan = plan(job, rank.world)
        runtime.check_precision(rank.device, job.precision)
        runtime.seed_all(job.seed)
        self.model = build.segmentor(job, num_classes)
        self.net: Any = self.model
        self.offsets = offsets(self.model.decoder.past, self.model.decoder.prior)
        self._skipped = 0  # iterations in a row
        self.supervision = Supervision()
        self.selection = selection(job.train)
        self.class_weights = class_weights.given(job.train, num_classes)
        self.warm_start = ""  # what a warm start took and left out, in a line

    def start(self, state: State | None) -> str:
        """Go on from a checkpoint's state, or from pre-trained weights where there is none; a line on these."""
        note = ""
        if state is None:
            note = build.load_pretrained(self.model, self.job.encoder.name)
            self.warm_start = build.warm_start_of(self.job, self.model)
        low_rank.adapt(self.model, self.job.train.lora)
        if state is not None:
            self.model.load_state_dict(state["model"])
        self.model.to(self.rank.device).to(memory_format=torch.channels_last)  # a sixth faster than contiguous
        if self.job.launch.deterministic and self.rank.device.type == "cuda":
            runtime.pool_exactly(self.model)
        freezing.freeze(self.model, self.job.train.freeze)
        if self.rank.world > 1:
            distributed.convert_batch_norm(self.model, self.rank.device)
            distributed.hand_in_sum(self.model)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.rank.device)
        self.average = averaging.average(self.model, self.job.train.ema)
        if self.job.train.compile:  # in place: names and the average stay as they are
            self.model.encoder.compile()
            self.model.decoder.compile()
        if self.rank.world > 1:
            self.net = distributed.data_parallel(self.model)
        self.optimizer = optim.adamw(self.model, self.job.train)
        self.scaler = torch.amp.GradScaler(self.rank.device.type, enabled=self.job.precision == "fp16")
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.supervision = Supervision(**state.get("supervision", {}))  # 0.1 kept none
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            if self.selection is not None:
                self.selection.load_state_dict(state["selection"])
        return note

    @property
    def terms(self) -> Terms:
        """What the keys of `train` make of the loss."""
        options = self.job.train
        return Terms(self.class_weights, options.ohem, options.dice, options.lovasz, self.plan.accumulation)

    @property
    def evaluated(self) -> Segmentor:
        """The model that is evaluated and kept: the average of its weights, where there is one."""
        return self.model if self.average is None else cast(Segmentor, self.average.module)

    @property
    def kept(self) -> checkpoint.StateDict:
        """The weights that are this training's result, by name."""
        best = None if self.selection is None else self.selection.weights
        return low_rank.merged(self.evaluated.state_dict() if best is None else best)

    def state(self) -> State:
        """Return the content of a checkpoint; the position is the iteration, in its name."""
        state: State = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "supervision": asdict(self.supervision),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.selection is not None:
            state["selection"] = self.selection.state_dict()
        return state

    def step(self, iteration: int, batches: Sequence[Batch], valid: int) -> dict[str, float]:
        """Run one iteration on this rank's micro-batches; return the global losses, lr and momentum.

        `valid` counts the labelled pixels of the global batch. A loss that is not finite reaches neither weights nor
        buffers, a gradient no weights: fp16's scaler may pass over SKIPS in a row, else HarnessError is raised. Losses
        and the gradients' norm are waited for here; so are, on a GPU, fp16's gradients, the classes that a memory
        sees, and batch norm over ranks.
        """
        progress = iteration / self.plan.iterations
        if self.scaler.is_enabled():  # batch norm takes statistics before the loss is known
            self._buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.model.train()
        share = valid if self.class_weights is None else class_weights.total(batches, self.class_weights)
        totals, sums, parts = None, [], []
        for micro, batch in enumerate(batches):
            last = micro == len(batches) - 1
            with nullcontext() if last or self.net is self.model else self.net.no_sync():
                values, part = self.backward(batch, share, progress)
            totals = values if totals is None else totals + values
            sums.append(part)
            parts.append(values)
        assert totals is not None
        *whole, norm = distributed.total(torch.cat([totals, self._norm()])).tolist()
        report = dict(zip(self._names, whole, strict=True))
        if not all(map(math.isfinite, whole)):
            bad = [batch for batch, part in zip(batches, parts, strict=True) if not part.isfinite().all()]
            return self._skip(iteration, report, bad)
        if not math.isfinite(norm):
            raise error_messages.not_finite(iteration, {"gradient": norm}, names(batches))
        merged = distributed.gather_sums(sums)
        if merged is not None:
            report["momentum"] = self.model.decoder.momentum_at(progress)
            with torch.no_grad():
                self.model.decoder.update(merged, report["momentum"])
        options = self.job.train
        report["lr"] = options.lr * optim.lr_factor(iteration, self.plan.iterations, options.warmup)
        optim.set_lr(self.optimizer, report["lr"])
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self._skipped = self._skipped + 1 if self.scaler.get_scale() < scale else 0
        if self._skipped > SKIPS:
            raise error_messages.not_finite(iteration, {"gradient": math.inf}, names(batches))
        return report

    def _norm(self) -> Tensor:
        """Return the gradients' norm, 0 with fp16, whose scaler looks at them itself.  # (1,)"""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if self.scaler.is_enabled() or not gradients:
            return torch.zeros(1, device=self.rank.device)
        return torch.nn.utils.get_total_norm(gradients)[None]

    def _skip(self, iteration: int, values: Mapping[str, float], bad: Sequence[Batch]) -> dict[str, float]:
        """Skip an iteration whose loss is not finite, with a smaller scale; raise if that is no remedy."""
        self._skipped += 1
        if not self.scaler.is_enabled() or self._skipped > SKIPS:
            raise error_messages.not_finite(iteration, values, names(bad))
        for buffer, before in zip(self.model.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        self.scaler.update(self.scaler.get_scale() * self.scaler.get_backoff_factor())
        self.optimizer.zero_grad(set_to_none=True)
        return {"skipped": 1.0}

    def backward(self, batch: Batch, valid: float, progress: float) -> tuple[Tensor, Any]:
        """Add a micro-batch's gradients; its losses (parts,) and class sums."""
        device = self.rank.device
        frames = batch.frames.to(device, non_blocking=True)  # (B, T, 3, H, W)
        labels = batch.labels.to(device, non_blocking=True).long()  # (B, T, H, W)
        past = tuple(frames[:, self.offsets.index(offset)] for offset in self.model.decoder.past)
        target = Target(labels[:, -1], batch.keys.to(device, non_blocking=True))
        with runtime.autocast(device, self.job.precision):
            prior = self._prior(frames, labels, progress, batch.labelled)
            output = self.net(frames[:, -1], past, prior, target)
        parts = losses(output, target.labels, valid, self.terms)
        # DDP averages gradients over ranks; the loss is already a share of the global one
        torch.autograd.backward(self.scaler.scale(parts["loss"] * self.rank.world))
        self._names = tuple(parts)
        return torch.stack([part.detach() for part in parts.values()]), output.sums

    def _prior(self, frames: Tensor, labels: Tensor, progress: float, labelled: Tensor | None = None) -> Tensor | None:
        """Return P (B, H, W): the truth at first, where N-1 is labelled; else the mask of frame N-1, or their own."""
        decoder = self.model.decoder
        if decoder.prior == "none":
            return None
        at = self.offsets.index(-1 if decoder.prior == "previous" else 0)
        if progress < decoder.gt_warmup:
            if labelled is None or labelled[:, at].all():
                return labels[:, at]
            there = labelled[:, at, None, None].to(frames.device)
            return torch.where(there, labels[:, at], predict(self.model, frames[:, at]))
        return predict(self.model, frames[:, at]) if decoder.prior == "previous" else None


def names(batches: Sequence[Batch]) -> list[str]:
    """Return the samples (video/frame) of all ranks' micro-batches."""
    return distributed.gather_words([name for batch in batches for name in batch.names])


def offsets(past: Sequence[int], prior: str) -> tuple[int, ...]:
    """Return the frames a sample needs, relative to the current one, oldest first."""
    return tuple(sorted({*past, *([-1] if prior == "previous" else []), 0}))


@torch.no_grad()
def predict(model: Segmentor, images: Tensor) -> Tensor:
    """Return masks (B, H, W) of images (B, 3, H, W), each as a video's first: eval mode, the decoder's rule for P."""
    model.eval()
    features = model.features(images)
    cache = model.decoder.encode(features, (features,) * len(model.decoder.past))
    logits = model.decoder.predict(cache, None).float()
    model.train()
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False).argmax(1)


def train(folder: Path, rank: Rank, stop: Stop) -> Ending:
    """Run a training job to its end, or to the signal that stops it; goes on from the last whole checkpoint."""
    job = read_as(folder, TrainSpec)
    runtime.begin_peak(rank.device)
    with Reporter(folder, rank, job.train.log_every, jobs.ours(folder, job)) as reporter:
        if any(distributed.agree(rank.first and through(folder, reporter))):  # killed between weights and outcome
            reporter.begin(job.iterations, job.iterations)
            reporter.checkpoint(job.iterations)
            if rank.first:
                checkpoint.clear(JobDir(folder).checkpoints)
            return Ending("finished", job.iterations)
        early = distributed.agreed(stop.status)
        if early is not None:  # while torch was imported, or another job was run
            return jobs.stopped(early, 0)
        dataset = build.dataset(job.data, job.plugins)
        trainer = Trainer(job, len(dataset.classes), rank)
        if job.train.class_weights == class_weights.FREQUENCY:
            trainer.class_weights = class_weights.by_frequency(dataset, rank, stop.beat)
            reporter.log(class_weights.line(trainer.class_weights, dataset.classes))
        start = resume(folder, trainer, reporter)
        if trainer.warm_start and (note := warm_start.other_classes(str(job.train.start), dataset.classes)):
            reporter.log(note)
        reporter.begin(start, trainer.plan.iterations)
        with Checkpoints(folder, trainer, reporter) as checkpoints:
            status, end = run(folder, trainer, dataset, start, stop, reporter, checkpoints)
        if status != "finished":
            return jobs.stopped(status, end)
        finish(folder, trainer, dataset.classes, reporter, end)
    return Ending("finished", end)


def resume(folder: Path, trainer: Trainer, reporter: Reporter) -> int:
    """Load the newest checkpoint that is whole; the iteration to go on with, the same on all ranks."""
    checkpoints, rank = JobDir(folder).checkpoints, trainer.rank
    if rank.first:
        jobs.ours(folder, trainer.job)()
        checkpoint.sweep(folder)
        checkpoint.sweep(checkpoints)
    newest = checkpoint.latest(checkpoints, reporter.log) if rank.first else None
    (start,) = distributed.agree(newest or 0)
    # to the CPU, where AdamW keeps its counts of steps: on a GPU it would wait for each parameter's, every iteration
    if note := trainer.start(checkpoint.load(checkpoints, start, torch.device("cpu")) if start else None):
        reporter.log(f"pre-trained weights: {note}")
    if trainer.warm_start:
        reporter.log(trainer.warm_start)
    return start


def run(
    folder: Path,
    trainer: Trainer,
    dataset: Dataset,
    start: int,
    stop: Stop,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> tuple[str, int]:
    """Run iterations from `start` on; return "finished", or the stop that all ranks agreed on, and the step."""
    job, rank, options = trainer.job, trainer.rank, trainer.job.train
    stream = TrainStream(
        dataset, offsets=trainer.offsets, crop=options.crop, short_side=options.short_side, seed=job.seed
    )
    intermediate = IntermediateEvaluation(job, dataset, rank)
    wanted = positions(trainer.plan, rank.rank, start)
    if options.workers:
        machine.room_for_loading(options.workers, trainer.plan.per_rank * stream.sample_bytes)
    batches = loader(stream, wanted, options.workers, pin_memory=rank.device.type == "cuda")
    micro_batches: list[Batch] = []
    best, end = trainer.selection, trainer.plan.iterations

    def judged(step: int) -> bool:
        """Evaluate after `step` iterations; whether no signal broke it off."""
        miou = intermediate.miou(trainer.evaluated, step, stop)
        reporter.intermediate(step, intermediate.split, miou)
        if best is not None and miou is not None:
            best.add(step, miou, trainer.evaluated.state_dict())
        return miou is not None

    # the evaluation that a stop broke off decides on the weights: it is made up for
    if best is not None and best.last < start and intermediate.due(start, end) and not judged(start):
        return distributed.agreed(stop.status) or "preempted", start
    for iteration in range(start, end):
        if best is not None and best.exhausted:
            end = iteration
            break
        stop.beat()
        checkpoints.look()
        runtime.seed_all(job.seed, iteration, rank.rank)
        micro_batches = [next(batches) for _ in range(trainer.plan.accumulation)]
        labelled = sum(int((batch.labels[:, -1] != stream.void).sum()) for batch in micro_batches)
        prune = intermediate.every is not None and rank.first and pruning.requested(folder)
        valid, preempted, cancelled, pruned = distributed.agree(
            labelled, stop.status == "preempted", stop.status == "cancelled", prune
        )
        if preempted or cancelled or pruned:
            if iteration > start:
                checkpoints.save(iteration)
            return ("cancelled" if cancelled else "preempted" if preempted else "pruned"), iteration
        values = trainer.step(iteration, micro_batches, valid)
        reporter.step(iteration + 1, values)
        trainer.supervision.add(valid, values)
        if warning := trainer.supervision.warning(trainer.plan.iterations, job.data.name):
            reporter.log(warning)
        if intermediate.due(iteration + 1, end) and not judged(iteration + 1) and best is not None:
            checkpoints.save(iteration + 1)
            return distributed.agreed(stop.status) or "preempted", iteration + 1
        if (iteration + 1) % options.checkpoint_every == 0 and iteration + 1 < trainer.plan.iterations:
            checkpoints.save(iteration + 1)
        if start < iteration + 1 == job.launch.pause:  # a rehearsal's resume
            checkpoints.save(iteration + 1)
            return "paused", iteration + 1
    checkpoints.wait()
    nothing = trainer.supervision.nothing(trainer.plan.iterations, job.data.name, names(micro_batches))
    if nothing and job.launch.pause is None:  # equal on all ranks; a rehearsal is too short to tell
        if rank.first:
            checkpoint.clear(JobDir(folder).checkpoints)  # the next attempt begins anew, with other masks
        raise nothing
    if best is not None and best.step:
        reporter.log(best.line(end, trainer.plan.iterations))
    return "finished", end
