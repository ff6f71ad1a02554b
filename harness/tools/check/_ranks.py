"""N ranks equal one process: the first iteration's gradients and buffers of two real gloo ranks and of one process.

Dropout modules are put out: ranks draw other numbers than one process does. A decoder that draws random numbers of its
own in training cannot be compared, which is said.
"""

import os
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from harness.data.stream import TrainStream, loader
from harness.engine import build, distributed, runtime, train
from harness.engine.runtime import Rank
from harness.plan.spec import TrainSpec
from harness.tools.check import _training
from harness.tools.check._result import Broken, expect, explain
from models.contract import VOID

WORLD = 2
LIMIT = 300.0  # seconds that the ranks have
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # of a gradient's own norm, and of the greatest; sums over ranks round differently
ROUNDING, TIMES = 2.0**-23, 20  # weights that differ by so much move a gradient; ranks may move it so often as far
Values = dict[str, Tensor]


def two_ranks(subject: _training.Subject) -> str:
    """Two ranks with half of each batch do what one process does with the whole."""
    job = subject.job(4)
    alone, other = (first_iteration(job, Rank(0, 1, _training.CPU, 1), salt) for salt in (0, 1))
    if any(not torch.equal(value, other[name]) for name, value in alone.items()):
        return "not compared: training draws random numbers outside dropout modules, so ranks are bound to differ"
    with TemporaryDirectory() as root:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of its search for unused parameters
        context: Any = spawn(  # type: ignore[no-untyped-call]
            _rank, (_free_port(), job, subject.path, Path(root)), WORLD, join=False
        )
        try:
            _wait(context, Path(root))
        finally:
            for process in context.processes:
                process.kill()
        ranks = [torch.load(Path(root) / f"{index}.pt") for index in range(WORLD)]
    uneven = [name for name, value in ranks[0].items() if not torch.equal(value, ranks[1][name])]
    expect(not uneven, f"ranks differ from each other in {', '.join(uneven[:3])}")
    return compare(alone, ranks[0], first_iteration(job, Rank(0, 1, _training.CPU, 1), rounding=ROUNDING))


def compare(alone: Values, shared: Values, rounded: Values) -> str:
    """Raise Broken where a gradient or buffer of the ranks is not that of one process.

    `rounded` is what one process has with weights moved by a rounding: deep untrained networks make much of it.
    """
    scale = max(float(value.norm()) for name, value in alone.items() if name.startswith("gradient "))
    worst, where = 0.0, ""
    for name, value in alone.items():
        gap, size = float((value - shared[name]).norm()), float(value.norm())
        allowed = RELATIVE * size + (ABSOLUTE * scale if name.startswith("gradient ") else RELATIVE)
        allowed += TIMES * float((value - rounded[name]).norm())
        if gap / allowed > worst:
            worst, where = gap / allowed, f"{name} differs by {gap:.3g}, its size is {size:.3g}"
    expect(worst <= 1, f"{where}: is something averaged over a rank's own images?")
    return f"{len(alone)} gradients and buffers, worst at {worst:.1g} of the tolerance"


def first_iteration(job: TrainSpec, rank: Rank, salt: int = 0, rounding: float = 0.0) -> Values:
    """Gradients of an iteration, summed over ranks, and the model's buffers after it; weights moved by `rounding`."""
    dataset = build.dataset(job.data, job.plugins)
    trainer = train.Trainer(job, len(dataset.classes), rank)
    for module in trainer.model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    trainer.start(None)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters() if rounding else ():
            weight.mul_(1 + rounding * torch.randn(weight.shape, generator=draw))
    values: Values = {}

    def keep(*_: Any) -> None:
        for name, value in trainer.model.named_parameters():
            values[f"gradient {name}"] = torch.zeros_like(value) if value.grad is None else value.grad.clone()

    trainer.optimizer.register_step_pre_hook(keep)
    stream = TrainStream(dataset, offsets=trainer.offsets, crop=job.train.crop, short_side=job.train.short_side, seed=0)
    batches = loader(stream, train.positions(trainer.plan, rank.rank, 0))
    micro_batches = [next(batches) for _ in range(trainer.plan.accumulation)]
    (valid,) = distributed.agree(sum(int((batch.labels[:, -1] != VOID).sum()) for batch in micro_batches))
    runtime.seed_all(job.seed, salt, rank.rank)
    trainer.step(0, micro_batches, valid)
    return values | {name: value.float() for name, value in trainer.model.named_buffers()}


def _rank(index: int, port: int, job: TrainSpec, path: Path, root: Path) -> None:
    """One rank: leaves its values in INDEX.pt, or why it could not in INDEX.txt."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(WORLD))
    rank = Rank(index, WORLD, _training.CPU, 1)
    try:
        with distributed.process_group(rank):
            torch.save(first_iteration(job, rank), root / f"{index}.pt")
    except Exception as error:
        (root / f"{index}.txt").write_text(explain(error, path), encoding="utf-8")
        sys.exit(1)


def _wait(context: Any, root: Path) -> None:
    """Until all ranks have ended. Raise Broken with the first rank's reason, or where they take too long."""
    try:
        while context.join(LIMIT) is False:
            if all(process.is_alive() for process in context.processes):
                raise Broken(f"the ranks did not finish within {LIMIT:g} s: do all follow the same path?")
    except (ProcessExitedException, ProcessRaisedException) as error:
        reasons = [path.read_text(encoding="utf-8") for path in sorted(root.glob("*.txt"))]
        raise Broken(f"a rank failed: {reasons[0] if reasons else ' '.join(str(error).split())}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
