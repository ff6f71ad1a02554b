"""Training: one optimiser step and one move of the memory an iteration, as a function of the iteration alone.

Shapes: B images, T frames of a clip, K classes, H × W pixels of the crop.

An iteration is `batch` samples = accumulation × micro_batch; a micro-batch is shared out over the ranks and is what
batch norm sees. All micro-batches read M_{t-1}; their class sums are merged in the batch's order and M moves once.
N ranks equal one process with the same micro_batch, and a resumed training equals one that was never stopped.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.common import machine
from harness.common.errors import HarnessError, UnfitError
from harness.data.contract import Dataset
from harness.data.stream import Batch, TrainStream, loader
from harness.engine import build, checkpoint, distributed, error_messages, jobs, optim, runtime, snapshots
from harness.engine.checkpoint import State
from harness.engine.intermediate_evaluation import IntermediateEvaluation
from harness.engine.jobs import Ending
from harness.engine.reporter import Reporter
from harness.engine.runtime import Rank, Stop
from harness.engine.supervision import Supervision
from harness.jobdir import pruning
from harness.jobdir.paths import JobDir
from harness.plan.spec import TrainSpec, read_as
from models.contract import VOID, Output, Target
from models.segmentor import Segmentor

VERSION = 1
SKIPS = 20  # iterations in a row that fp16's scaler may pass over: from 2^16 down to below 1


class Plan(NamedTuple):
    """The samples of an iteration, shared out over micro-batches and ranks."""

    iterations: int
    batch: int
    micro_batch: int
    per_rank: int  # samples of a micro-batch on each rank

    @property
    def accumulation(self) -> int:
        """Micro-batches an iteration."""
        return self.batch // self.micro_batch


def plan(job: TrainSpec, world: int) -> Plan:
    """Return how a job's samples are shared out. Raise UnfitError where the batch cannot be shared out evenly."""
    batch = job.train.batch
    micro_batch = job.train.micro_batch or batch
    if batch % micro_batch:
        raise UnfitError(f"train.micro_batch={micro_batch}: must divide train.batch={batch}")
    if micro_batch % world:
        raise UnfitError(
            f"train.micro_batch={micro_batch} cannot be shared by {world} ranks; choose a --nproc that divides it"
        )
    return Plan(job.iterations, batch, micro_batch, micro_batch // world)


def positions(plan: Plan, rank: int, start: int) -> Iterator[list[int]]:
    """Yield the positions of this rank's samples in the training stream, by micro-batch, from iteration `start` on."""
    for iteration in range(start, plan.iterations):
        for micro in range(plan.accumulation):
            first = iteration * plan.batch + micro * plan.micro_batch + rank * plan.per_rank
            yield list(range(first, first + plan.per_rank))


def losses(output: Output, labels: Tensor, valid: int) -> dict[str, Tensor]:
    """Return cross entropies over `valid` pixels, by name: "loss" is the weighted whole, the others are unweighted,
    "loss_main" that of the logits.

    Labels are (B, H, W). The sum over these labels' pixels is divided by the number in the global batch, so that
    micro-batches and ranks add; without a valid pixel it is 0.
    """

    def cross_entropy(logits: Tensor) -> Tensor:
        full = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)  # (B, K, H, W)
        return F.cross_entropy(full, labels, ignore_index=VOID, reduction="sum") / max(valid, 1)

    parts = {auxiliary.name: cross_entropy(auxiliary.logits) for auxiliary in output.auxiliary}
    whole = main = cross_entropy(output.logits)
    for auxiliary in output.auxiliary:
        whole = whole + auxiliary.weight * parts[auxiliary.name]
    return {"loss": whole, "loss_main": main, **parts}


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

    def start(self, state: State | None) -> str:
        """Go on from a checkpoint's state, or from pre-trained weights where there is none; a line on these."""
        note = ""
        if state is None:
            note = build.load_pretrained(self.model, self.job.encoder.name)
        else:
            self.model.load_state_dict(state["model"])
        self.model.to(self.rank.device).to(memory_format=torch.channels_last)  # a sixth faster than contiguous
        if self.job.launch.deterministic and self.rank.device.type == "cuda":
            runtime.pool_exactly(self.model)
        if self.rank.world > 1:
            distributed.convert_batch_norm(self.model, self.rank.device)
            distributed.hand_in_sum(self.model)
            self.net = distributed.data_parallel(self.model)
        self.optimizer = optim.adamw(self.model, self.job.train)
        self.scaler = torch.amp.GradScaler(self.rank.device.type, enabled=self.job.precision == "fp16")
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.supervision = Supervision(**state.get("supervision", {}))  # 0.1 kept none
        return note

    def state(self) -> State:
        """Return the content of a checkpoint; the position is the iteration, in its name."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "supervision": asdict(self.supervision),
        }

    def wild(self) -> list[str]:
        """Return the parts of the state that are not finite; a buffer may hold infinities, as masks do."""
        moments = ((key, value) for state in self.optimizer.state.values() for key, value in state.items())
        fine = chain(
            ((name, value.isfinite()) for name, value in self.model.named_parameters()),
            ((name, ~value.isnan()) for name, value in self.model.named_buffers()),
            ((f"AdamW's {key}", value.isfinite()) for key, value in moments),
        )
        return list(dict.fromkeys(name for name, good in fine if not good.all()))

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
        totals, sums, parts = None, [], []
        for micro, batch in enumerate(batches):
            last = micro == len(batches) - 1
            with nullcontext() if last or self.net is self.model else self.net.no_sync():
                values, part = self.backward(batch, valid, progress)
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

    def backward(self, batch: Batch, valid: int, progress: float) -> tuple[Tensor, Any]:
        """Add a micro-batch's gradients; its losses (parts,) and class sums."""
        device = self.rank.device
        frames = batch.frames.to(device, non_blocking=True)  # (B, T, 3, H, W)
        labels = batch.labels.to(device, non_blocking=True).long()  # (B, T, H, W)
        past = tuple(frames[:, self.offsets.index(offset)] for offset in self.model.decoder.past)
        target = Target(labels[:, -1], batch.keys.to(device, non_blocking=True))
        with runtime.autocast(device, self.job.precision):
            prior = self._prior(frames, labels, progress)
            output = self.net(frames[:, -1], past, prior, target)
        parts = losses(output, target.labels, valid)
        # DDP averages gradients over ranks; the loss is already a share of the global one
        torch.autograd.backward(self.scaler.scale(parts["loss"] * self.rank.world))
        self._names = tuple(parts)
        return torch.stack([part.detach() for part in parts.values()]), output.sums

    def _prior(self, frames: Tensor, labels: Tensor, progress: float) -> Tensor | None:
        """Return P (B, H, W): the truth at first, then the mask of frame N-1 for decoders that take it, or theirs."""
        decoder = self.model.decoder
        if decoder.prior == "none":
            return None
        at = self.offsets.index(-1 if decoder.prior == "previous" else 0)
        if progress < decoder.gt_warmup:
            return labels[:, at]
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
        start = resume(folder, trainer, reporter)
        reporter.begin(start, trainer.plan.iterations)
        status = run(folder, trainer, dataset, start, stop, reporter)
        if status is not None:
            return jobs.stopped(*status)
        finish(folder, trainer, dataset.classes, reporter)
    return Ending("finished", trainer.plan.iterations)


def through(folder: Path, reporter: Reporter) -> bool:
    """Return whether the weights are written; damaged ones are told of and made again."""
    path = JobDir(folder).weights_file
    whole = checkpoint.whole(path)
    if path.exists() and not whole:
        reporter.log(f"{path.name} does not match its checksum; it is made again")
    return whole


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
    return start


def run(
    folder: Path, trainer: Trainer, dataset: Dataset, start: int, stop: Stop, reporter: Reporter
) -> tuple[str, int] | None:
    """Run iterations from `start` on; return status and step of a stop that all ranks agreed on, None at the end."""
    job, rank, options = trainer.job, trainer.rank, trainer.job.train
    stream = TrainStream(
        dataset, offsets=trainer.offsets, crop=options.crop, short_side=options.short_side, seed=job.seed
    )
    intermediate = IntermediateEvaluation(job, dataset, rank)
    wanted = positions(trainer.plan, rank.rank, start)
    if options.workers:
        images = (options.micro_batch or options.batch) // rank.world
        pixel = 3 + 1  # bytes: colours and label
        machine.room_for_loading(options.workers, images * len(trainer.offsets) * options.crop**2 * pixel)
    batches = loader(stream, wanted, options.workers, pin_memory=rank.device.type == "cuda")
    micro_batches: list[Batch] = []
    for iteration in range(start, trainer.plan.iterations):
        stop.beat()
        runtime.seed_all(job.seed, iteration, rank.rank)
        micro_batches = [next(batches) for _ in range(trainer.plan.accumulation)]
        labelled = sum(int((batch.labels[:, -1] != VOID).sum()) for batch in micro_batches)
        prune = intermediate.every is not None and rank.first and pruning.requested(folder)
        valid, preempted, cancelled, pruned = distributed.agree(
            labelled, stop.status == "preempted", stop.status == "cancelled", prune
        )
        if preempted or cancelled or pruned:
            if iteration > start:
                save(folder, trainer, iteration, reporter)
            return ("cancelled" if cancelled else "preempted" if preempted else "pruned"), iteration
        values = trainer.step(iteration, micro_batches, valid)
        reporter.step(iteration + 1, values)
        trainer.supervision.add(valid, values)
        if warning := trainer.supervision.warning(trainer.plan.iterations, job.data.name):
            reporter.log(warning)
        if intermediate.due(iteration + 1, trainer.plan.iterations):
            miou = intermediate.miou(trainer.model, iteration + 1, stop)
            reporter.intermediate(iteration + 1, intermediate.split, miou)
        if (iteration + 1) % options.checkpoint_every == 0 and iteration + 1 < trainer.plan.iterations:
            save(folder, trainer, iteration + 1, reporter)
        if start < iteration + 1 == job.launch.pause:  # a rehearsal's resume
            save(folder, trainer, iteration + 1, reporter)
            return "paused", iteration + 1
    nothing = trainer.supervision.nothing(
        trainer.plan.iterations, job.data.name, names(micro_batches)
    )  # equal on all ranks
    if nothing and job.launch.pause is None:  # a rehearsal is too short to tell
        if rank.first:
            checkpoint.clear(JobDir(folder).checkpoints)  # the next attempt begins anew, with other masks
        raise nothing
    return None


def save(folder: Path, trainer: Trainer, step: int, reporter: Reporter) -> None:
    """Write a checkpoint, by the first rank. Raise HarnessError for a state that must not be kept."""
    check(trainer, step)
    if trainer.rank.first:
        checkpoint.save(JobDir(folder).checkpoints, step, trainer.state(), jobs.ours(folder, trainer.job))
        snapshots.memory(folder, trainer.model, step)
        reporter.checkpoint(step)


def check(trainer: Trainer, step: int) -> None:
    """Raise HarnessError where the ranks' memories have come apart, or the state is not finite."""
    if not distributed.same(getattr(trainer.model.decoder, "memory", None)):
        raise HarnessError(f"the ranks hold different memories at iteration {step}: this is a bug, discard this run")
    if wild := trainer.wild():
        raise HarnessError(
            f"the state is not finite at iteration {step}: {', '.join(wild[:5])}; it is not saved; the last checkpoint "
            "remains valid; lower train.lr or use precision=fp32"
        )


def finish(folder: Path, trainer: Trainer, classes: Sequence[str], reporter: Reporter) -> None:
    """Write the weights, M among them, by the first rank; checkpoints are not needed any more. Raises as `save`."""
    check(trainer, trainer.plan.iterations)
    if trainer.rank.first:
        jobs.ours(folder, trainer.job)()
        snapshots.memory(folder, trainer.model, trainer.plan.iterations)
        checkpoint.save_weights(
            JobDir(folder).weights_file,
            trainer.model.state_dict(),
            trainer.job.fingerprint,
            classes,
            jobs.ours(folder, trainer.job),
        )
        reporter.checkpoint(trainer.plan.iterations)
        checkpoint.clear(JobDir(folder).checkpoints)
    distributed.agree(0)  # what comes next in the launch may read the weights
