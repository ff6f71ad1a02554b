"""The paper's model on one GPU: milliseconds, peak memory and TFLOP/s of training and inference, in one call.

    python tests/benchmarks/gpu.py [--size large|base|tiny] [--device cuda|cpu] [--batch N] [--steps N] [--json]

Training is the engine's own step (Trainer.step: prior, losses, backward, memory, AdamW) on made batches that lie in
the host's memory; inference is the engine's own windows and stages. FLOPs are counted on fake tensors
(harness/engine/count.py) and set against the rate of a matmul in the same precision, measured in the same run. The
baseline is the same step in fp32. A stage's P is drawn at random, so that none exits early.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

import torch  # noqa: E402
from benchmarks.rows import BEIT, MEMBERS  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch import Tensor  # noqa: E402

from harness.core import plugins  # noqa: E402
from harness.datasets._stream import Batch  # noqa: E402
from harness.engine import build, count, inference  # noqa: E402
from harness.engine.runtime import DTYPES, Rank  # noqa: E402
from harness.engine.stages import Stages  # noqa: E402
from harness.engine.train import Trainer  # noqa: E402

GIB = 2**30
FRAME = (480, 853)  # VSPW 480p
PAPER_MEMORY = 32  # GiB of the paper's cards


@dataclass(frozen=True)
class Setting:
    """What is measured, and on what."""

    device: torch.device
    size: str = "large"
    crop: int = 512
    classes: int = 124
    batch: int = 2
    steps: int = 10
    frame: tuple[int, int] = FRAME
    widths: tuple[tuple[str, int], ...] = ()  # of decoders, by field

    def job(self, decoder: str, precision: str) -> dict[str, Any]:
        """A training job, as job.yaml has it, three quarters through its iterations when it is asked for step 75."""
        known = plugins.load("decoders", decoder).Config()
        return {
            **{"kind": "train", "fingerprint": "0" * 16, "seed": 0, "precision": precision, "iterations": 100},
            "encoder": {"name": "beit", "config": {"model": "tiny" if self.size == "tiny" else BEIT.format(self.size)}},
            "decoder": {"name": decoder, "config": {k: v for k, v in self.widths if hasattr(known, k)}},
            "train": {
                **{"batch": self.batch, "micro_batch": self.batch, "crop": self.crop, "lr": 2e-5},
                **{"weight_decay": 0.05, "layer_decay": 0.9, "warmup": 1},
            },
            **{"plugins": [], "classes": self.classes},
        }


@dataclass(frozen=True)
class Line:
    """One measured thing."""

    what: str
    precision: str
    ms: float | None  # None: out of memory
    peak_gib: float
    tflops: float | None = None  # achieved, by the count
    share: float | None = None  # of the matmul rate in that precision
    host_syncs: int | None = None  # times a step waits for the device


def clock(setting: Setting, form: Callable[[], Any], steps: int, warm: int = 3) -> tuple[float, float]:
    """Milliseconds of a form, a mean over steps, and the peak of the GPU's memory in GiB."""
    on_gpu = setting.device.type == "cuda"
    for _ in range(warm):
        form()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(steps):
        form()
    if on_gpu:
        torch.cuda.synchronize()
    taken = 1000 * (time.perf_counter() - begun) / steps
    return taken, torch.cuda.max_memory_allocated() / GIB if on_gpu else 0.0


def host_syncs(setting: Setting, form: Callable[[], Any]) -> int | None:
    """How often a form makes the host wait for the GPU."""
    if setting.device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            form()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in heard)


def matmul_rate(setting: Setting, precision: str) -> float:
    """TFLOP/s of a square matrix product."""
    side = 8192 if setting.device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=setting.device, dtype=DTYPES[precision]) for _ in range(2))
    taken, _ = clock(setting, lambda: left @ right, 20)
    return 2 * side**3 / (taken / 1000) / 1e12


def training(setting: Setting, decoder: str, precision: str, rate: float) -> Line:
    """The engine's step, after the part in which the truth stands for P."""
    job = setting.job(decoder, precision)
    what = f"train {decoder}, {setting.batch} × {setting.crop}²"
    trainer = Trainer(job, setting.classes, Rank(0, 1, setting.device, torch.get_num_threads()))
    trainer.start(None)
    batch = made_batch(setting, len(trainer.offsets))
    valid = batch.labels[:, -1].numel()
    try:
        taken, peak = clock(setting, lambda: trainer.step(75, [batch], valid), setting.steps)
        waits = host_syncs(setting, lambda: trainer.step(75, [batch], valid))
    except torch.OutOfMemoryError:
        return Line(what, precision, None, torch.cuda.max_memory_allocated() / GIB)
    achieved = count.training(job)["flops"] / (taken / 1000) / 1e12
    return Line(what, precision, taken, peak, achieved, achieved / rate, waits)


def made_batch(setting: Setting, frames: int) -> Batch:
    """Noise with labels in blocks."""
    generator = torch.Generator().manual_seed(0)
    shape = setting.batch, frames, 3, setting.crop, setting.crop
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    side = max(1, setting.crop // 8)
    blocks = torch.randint(setting.classes, (setting.batch, frames, 8, 8), generator=generator, dtype=torch.uint8)
    labels = blocks.repeat_interleave(side, 2).repeat_interleave(side, 3)
    batch = images, labels, torch.arange(setting.batch)
    if setting.device.type == "cuda":
        batch = tuple(part.pin_memory() for part in batch)
    return Batch(*batch, ("made/0",) * setting.batch)


def parsing(setting: Setting, members: Sequence[str], precision: str, later: int, whole: bool, rate: float) -> Line:
    """A window, or a frame by sliding windows, for stage 0 or stage 0 and `later` more, of a model or an ensemble."""
    height, width = setting.frame if whole else (setting.crop, setting.crop)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, height, width), generator=generator).float().to(setting.device)
    masks = [torch.randint(setting.classes, (height, width), generator=generator) for _ in range(later)]
    masks = [mask.to(setting.device) for mask in masks]
    geometry = inference.geometry(setting.crop, None, None, (1.0,), False)
    stages, flops = [], 0
    for decoder in members:
        job = setting.job(decoder, precision)
        model = build.segmentor(job, setting.classes)
        if hasattr(model.decoder, "memory"):
            model.decoder.memory.rows.normal_()
            model.decoder.memory.initialised.fill_(True)
        stages.append(Stages(model, geometry, precision, setting.device))
        windows = len(inference.tiles(height, width, geometry, stages[-1].fit))
        one = count.passes(*count.fake_model(job, setting.classes), setting.crop, setting.crop)
        flops += windows * one.window(1 + later)

    def parse() -> Tensor:
        total: Any = 0
        for member in stages:
            *_, last = member.predict(image, 0, masks)
            total = total + last.probabilities
        return inference.labels(total)

    taken, peak = clock(setting, parse, setting.steps)
    achieved = flops / (taken / 1000) / 1e12
    place = f"frame {height} × {width}" if whole else f"window {setting.crop}²"
    what = f"{'+'.join(members)}, {place}, stage{'s 0-' + str(later) if later else ' 0'}"
    return Line(what, precision, taken, peak, achieved, achieved / rate)


def measure(setting: Setting, low: str, say: Callable[[str], None]) -> list[Line]:
    """Every line: each decoder's training in `low` precision and in fp32, then inference."""
    rates = {precision: matmul_rate(setting, precision) for precision in dict.fromkeys((low, "fp32"))}
    lines = [Line(f"matmul, {name}", name, None, 0.0, rate, 1.0) for name, rate in rates.items()]
    for precision, rate in rates.items():
        for decoder in MEMBERS:
            lines.append(training(setting, decoder, precision, rate))
            say(str(lines[-1]))
    ensembles = ("upernet",), ("decoder_a",), ("decoder_b",), ("decoder_a", "decoder_b")
    cases = [(low, members, later, whole) for whole in (False, True) for later in (0, 3) for members in ensembles]
    cases.append(("fp32", ("decoder_a",), 0, False))
    for precision, members, later, whole in cases:
        lines.append(parsing(setting, members, precision, later, whole, rates[precision]))
        say(str(lines[-1]))
    return lines


def facts(setting: Setting) -> dict[str, Any]:
    """What the figures are of."""
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, cwd=PROJECT, capture_output=True, text=True, check=False).stdout.strip()
    name = torch.cuda.get_device_name() if setting.device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return {"device": name, "torch": torch.__version__, "commit": commit or None, "size": setting.size}


def table(lines: Sequence[Line]) -> str:
    """For a terminal."""
    rows = [
        [
            *(line.what, line.precision, "–" if line.ms is None else f"{line.ms:.1f}", f"{line.peak_gib:.1f}"),
            *("–" if line.tflops is None else f"{line.tflops:.1f}", "–" if line.share is None else f"{line.share:.0%}"),
            "–" if line.host_syncs is None else line.host_syncs,
        ]
        for line in lines
    ]
    heads = ["what", "precision", "ms", "peak GiB", "TFLOP/s", "of matmul", "host waits"]
    return tabulate(rows, heads, disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="gpu.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=("large", "base", "tiny"), default="large")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=("bf16", "fp16"), default="bf16")
    parser.add_argument("--batch", type=int, default=2, help="images a GPU (default 2, as the paper's)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu.py: torch sees no GPU; `harness doctor` says why (--device cpu --size tiny tries the script)")
        return 3
    setting = Setting(device, options.size, batch=options.batch, steps=options.steps)
    lines = measure(setting, options.precision, lambda said: print(said, file=sys.stderr, flush=True))
    known = facts(setting)
    if options.json:
        print(json.dumps({"schema": 1, **known, "lines": [asdict(line) for line in lines]}, indent=1))
    else:
        print(table(lines))
        print("\n" + ", ".join(f"{key} {value}" for key, value in known.items()))
        print(f"The paper's cards hold {PAPER_MEMORY} GB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
