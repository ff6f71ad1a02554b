"""Parallelism, applied from outside: models name no process group, and N ranks equal one process.

Shapes: B images of this rank, C channels, H × W positions.
"""

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import timm.layers
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.engine.runtime import Rank

HANGS = timedelta(hours=1)  # of a collective; the supervisor's `stall` is shorter, and leaves all ranks' stacks


@contextmanager
def process_group(rank: Rank) -> Iterator[None]:
    """Join the group of all ranks for as long as the block runs; no group with one rank.

    Left without destroy_process_group gloo aborts the process, so it is destroyed on every way out.
    """
    if rank.world == 1:
        yield
        return
    if rank.device.type == "cuda":
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=rank.device, timeout=HANGS)
    else:
        dist.init_process_group("gloo", timeout=HANGS)
    try:
        yield
    finally:
        dist.destroy_process_group()


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total: Tensor = _AllSum.apply(gradient)
        return total  # every rank's loss depends on this rank's value


def all_sum(value: Tensor) -> Tensor:
    """Return the differentiable sum over the ranks; the value itself where there is one."""
    return _AllSum.apply(value) if dist.is_initialized() else value


def hand_in_sum(model: nn.Module) -> None:
    """Give `all_sum` to every module that asks for a sum over ranks by having an attribute of that name."""
    for module in model.modules():
        if hasattr(module, "all_sum"):
            module.all_sum = all_sum  # type: ignore[assignment]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all ranks' images, for gloo: torch's own refuses tensors on a CPU. Two passes, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W), of any B on each rank, as if the ranks' images were one batch."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        local = wide.new_tensor([x.shape[0] * x.shape[2] * x.shape[3]])
        head = all_sum(torch.cat([wide.sum((0, 2, 3)), local]))  # (C + 1,)
        count = head[-1]
        mean = head[:-1] / count
        centred = wide - mean[:, None, None]
        variance = all_sum(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach(), count.detach())
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normed = centred * scale[:, None, None]
        return (normed + self.bias[:, None, None] if self.affine else normed).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return  # track_running_stats=False
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), share)  # unbiased, as torch keeps it


class SyncBatchNormAct2d(SyncBatchNorm2d):
    """The same for timm's batch norm that carries its dropout and activation."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        activated: Tensor = self.act(self.drop(super().forward(x)))  # type: ignore[operator]
        return activated


def data_parallel(model: nn.Module) -> DistributedDataParallel:
    """Return the model with gradients averaged over ranks; buffers stay each rank's own, equal by construction.

    A plug-in may leave a parameter out of an iteration, so unused ones are looked for.
    """
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    own: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, find_unused_parameters=True, **own)


def convert_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with every BatchNorm2d sharing its statistics over ranks; names and values stay as they were."""
    if device.type == "cuda":
        converted: nn.Module = timm.layers.convert_sync_batchnorm(model)
        return converted
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _shared(child))
    return model


def _shared(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    with_act = isinstance(norm, BatchNormAct2d)
    kind = SyncBatchNormAct2d if with_act else SyncBatchNorm2d
    shared = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if with_act:
        shared.drop, shared.act = norm.drop, norm.act
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(shared, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(shared, name, buffer)
    return shared.train(norm.training)


def gather_sums(parts: Sequence[Any]) -> Any:
    """Return the class sums of the global batch, merged in the order of its positions, so bit-equal on all ranks.

    `parts` holds one Sums for each micro-batch of this rank, or None where the decoder has no memory.
    """
    if parts[0] is None:
        return None
    whole = None
    for part in parts:  # micro-batch major, then rank: positions in the batch ascend
        for theirs in _of_every_rank(part):
            whole = theirs if whole is None else whole.merge(theirs)
    return whole


def _of_every_rank(part: Any) -> list[Any]:
    if not dist.is_initialized():
        return [part]
    columns = []
    for tensor in part:
        column = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(column, tensor.contiguous())
        columns.append(column)
    return [type(part)(*row) for row in zip(*columns, strict=True)]


def agree(*counts: int) -> list[int]:
    """Return the sums over ranks of whole numbers that live on the CPU: no device is waited for."""
    if not dist.is_initialized():
        return list(counts)
    total = torch.tensor(counts, dtype=torch.int64)
    dist.all_reduce(total)
    return [int(value) for value in total]


def agreed(status: str | None) -> str | None:
    """Return the word that all ranks stop with, if one of them was told to: 'cancelled' goes before 'preempted'."""
    preempted, cancelled = agree(status == "preempted", status == "cancelled")
    return "cancelled" if cancelled else "preempted" if preempted else None


def gather_words(words: Sequence[str]) -> list[str]:
    """Return all ranks' words, in the ranks' order."""
    if not dist.is_initialized():
        return list(words)
    lists: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, list(words))
    return [word for words_of_rank in lists for word in words_of_rank]


def same(module: nn.Module | None) -> bool:
    """Return whether a module's state has equal bits on all ranks."""
    if module is None or not dist.is_initialized():
        return True
    hashed = hashlib.sha256()
    for name, value in module.state_dict().items():
        hashed.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return len(set(gather_words([hashed.hexdigest()]))) == 1


@torch.no_grad()
def total(values: Tensor) -> Tensor:
    """Return the sum over ranks of values that live on the device."""
    return all_sum(values)
