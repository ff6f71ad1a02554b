"""The paper's model on one GPU: milliseconds, peak memory and TFLOP/s of training and inference, in one call.

    python tests/benchmarks/gpu.py [--size large|base|tiny] [--device cuda|cpu] [--batch N] [--steps N] [--json]
    python tests/benchmarks/gpu.py --profile decoder_a      # where a step and a window spend their time, by operation

Training is the engine's own step (Trainer.step: prior, losses, backward, memory, AdamW) on made batches that lie in
the host's memory; inference is the engine's own windows and stages. FLOPs are counted on fake tensors
(harness/engine/flops.py) and set against the rate of a matmul in the same precision, measured in the same run. The
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
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests" / "support")]

import torch  # noqa: E402
from benchmarks.rows import BEIT, MEMBERS  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch import Tensor  # noqa: E402

from harness.config import plugins  # noqa: E402
from harness.config.compose import DataSpec, PluginSpec  # noqa: E402
from harness.config.sections import EvaluateConfig, TrainConfig  # noqa: E402
from harness.data.stream import Batch  # noqa: E402
from harness.engine import build, sliding_window  # noqa: E402
from harness.engine import flops as count  # noqa: E402
from harness.engine.multistage import Stages  # noqa: E402
from harness.engine.runtime import DTYPES, Rank  # noqa: E402
from harness.engine.train import Trainer  # noqa: E402
from harness.plan.spec import TrainSpec  # noqa: E402
from models.segmentor import Segmentor  # noqa: E402

GIB = 2**30
FRAME = (480, 853)  # VSPW 480p
PAPER_MEMORY = 32  # GiB of the paper's cards
TRAINING, INFERENCE, FASTER = 0.45, 0.50, 3.0  # goals: of the matmul rate, and times the fp32 step
ROWS = 14  # of a profile


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

    def job(self, decoder: str, precision: str) -> TrainSpec:
        """A training job, three quarters through its iterations when it is asked for step 75."""
        own = plugins.load("decoders", decoder).Config()
        return TrainSpec(
            fingerprint="0" * 16,
            seed=0,
            precision=precision,
            data=DataSpec("synthetic"),
            encoder=PluginSpec("beit", {"model": "tiny" if self.size == "tiny" else BEIT.format(self.size)}),
            decoder=PluginSpec(decoder, {name: width for name, width in self.widths if hasattr(own, name)}),
            train=TrainConfig(
                batch=self.batch, micro_batch=self.batch, crop=self.crop, lr=2e-5, layer_decay=0.9, warmup=1
            ),
            evaluate=EvaluateConfig(window=self.crop),
            iterations=100,
            plugins=(),
            identity={},
        )


@dataclass(frozen=True)
class Line:
    """One measured thing."""

    what: str
    precision: str
    ms: float | None  # None: out of memory
    peak_gib: float
    tflop: float | None = None  # by the count
    tflops: float | None = None  # achieved: tflop a second
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
    counted = count.training(job, setting.classes)["flops"] / 1e12
    achieved = counted / (taken / 1000)
    return Line(what, precision, taken, peak, counted, achieved, achieved / rate, waits)


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


@cache
def network(setting: Setting, decoder: str) -> Segmentor:
    """An untrained model whose memory holds noise; made once, since BEiT-Large takes seconds to draw."""
    model = build.segmentor(setting.job(decoder, "fp32"), setting.classes)
    if hasattr(model.decoder, "memory"):
        model.decoder.memory.rows.normal_()
        model.decoder.memory.initialised.fill_(True)
    return model


def parsing(setting: Setting, members: Sequence[str], precision: str, later: int, whole: bool, rate: float) -> Line:
    """A window, or a frame by sliding windows, for stage 0 or stage 0 and `later` more, of a model or an ensemble."""
    height, width = setting.frame if whole else (setting.crop, setting.crop)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, height, width), generator=generator).float().to(setting.device)
    masks = [torch.randint(setting.classes, (height, width), generator=generator) for _ in range(later)]
    masks = [mask.to(setting.device) for mask in masks]
    geometry = sliding_window.geometry(EvaluateConfig(window=setting.crop))
    stages, flops = [], 0
    for decoder in members:
        job = setting.job(decoder, precision)
        stages.append(Stages(network(setting, decoder), geometry, precision, setting.device))
        windows = len(sliding_window.tiles(height, width, geometry, stages[-1].accepts))
        model, mode = count.fake_model(job, setting.classes)
        with mode:
            one = count.passes(model, setting.crop, setting.crop)
        flops += windows * one.total(1 + later)

    def parse() -> Tensor:
        total: Any = 0
        for member in stages:
            *_, last = member.predict(image, 0, masks)
            total = total + last.probabilities
        return sliding_window.labels(total)

    taken, peak = clock(setting, parse, setting.steps)
    achieved = flops / 1e12 / (taken / 1000)
    place = f"frame {height} × {width}" if whole else f"window {setting.crop}²"
    what = f"{'+'.join(members)}, {place}, stage{'s 0-' + str(later) if later else ' 0'}"
    return Line(what, precision, taken, peak, flops / 1e12, achieved, achieved / rate)


def measure(setting: Setting, low: str, say: Callable[[str], None]) -> list[Line]:
    """Every line: each decoder's training in `low` precision and in fp32, then inference."""
    rates = {precision: matmul_rate(setting, precision) for precision in dict.fromkeys((low, "fp32"))}
    lines = [Line(f"matmul, {name}", name, None, 0.0, None, rate, 1.0) for name, rate in rates.items()]
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


def goals(lines: Sequence[Line], low: str) -> list[tuple[str, str, bool]]:
    """What issue and design ask for: the goal, the worst figure that there is for it, whether it is met."""
    steps = {line.what: line for line in lines if line.what.startswith("train ") and line.precision == low}
    slow = {line.what: line for line in lines if line.what.startswith("train ") and line.precision == "fp32"}
    parsed = [line for line in lines if "stage" in line.what and line.precision == low]
    fitted = [line for line in steps.values() if line.ms]
    share = min((line.share or 0 for line in steps.values()), default=0.0)
    reached = min((line.share or 0 for line in parsed), default=0.0)
    peak = max((line.peak_gib for line in steps.values()), default=0.0)
    ratios = [baseline / line.ms for line in fitted if line.ms and (baseline := slow[line.what].ms)]
    faster = min(ratios, default=0.0)
    return [
        (f"training at {TRAINING:.0%} of the matmul rate", f"{share:.0%}", share >= TRAINING),
        (f"inference at {INFERENCE:.0%}", f"{reached:.0%}", reached >= INFERENCE),
        (
            f"the batch within {PAPER_MEMORY} GiB, as the paper's cards hold",
            f"{peak:.1f} GiB" if len(fitted) == len(steps) else "out of memory",
            len(fitted) == len(steps) and peak <= PAPER_MEMORY,
        ),
        (
            f"{FASTER:.0f} times the fp32 step",
            f"{faster:.2f}" if len(ratios) == len(steps) else "not all steps fit into memory",
            len(ratios) == len(steps) and faster >= FASTER,
        ),
    ]


def profile(setting: Setting, decoder: str, precision: str) -> str:
    """Which operations one training step and one window's stages 0 to 3 spend their time in, by torch.profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = setting.device.type == "cuda"
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    trainer = Trainer(setting.job(decoder, precision), setting.classes, Rank(0, 1, setting.device, 1))
    trainer.start(None)
    batch = made_batch(setting, len(trainer.offsets))
    valid = batch.labels[:, -1].numel()
    geometry = sliding_window.geometry(EvaluateConfig(window=setting.crop))
    stages = Stages(network(setting, decoder), geometry, precision, setting.device)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, setting.crop, setting.crop, generator=generator).to(setting.device)
    masks = [torch.randint(setting.classes, image.shape[-2:], generator=generator) for _ in range(3)]
    masks = [mask.to(setting.device) for mask in masks]
    forms: dict[str, Callable[[], Any]] = {
        f"a step of {decoder}, {setting.batch} × {setting.crop}²": lambda: trainer.step(75, [batch], valid),
        f"a window of {decoder}, stages 0-3": lambda: list(stages.predict(image, 0, masks)),
    }
    said = []
    for what, form in forms.items():
        form()  # libraries choose their kernels at the first run
        with torch.profiler.profile(activities=activities) as seen:
            form()
        key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        found = sorted(seen.key_averages(), key=lambda one: -getattr(one, key))
        whole = sum(getattr(one, key) for one in found) or 1
        rows = [(one.key, one.count, getattr(one, key) / 1000, 100 * getattr(one, key) / whole) for one in found[:ROWS]]
        said.append(f"{what}, {precision}: {whole / 1e6:.2f} s of operations")
        said.append(tabulate(rows, ["operation", "calls", "ms", "%"], floatfmt=".1f"))
    return "\n\n".join(said)


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
            "–" if line.tflop is None else f"{line.tflop:.1f}",
            *("–" if line.tflops is None else f"{line.tflops:.1f}", "–" if line.share is None else f"{line.share:.0%}"),
            "–" if line.host_syncs is None else line.host_syncs,
        ]
        for line in lines
    ]
    heads = ["what", "precision", "ms", "peak GiB", "TFLOP", "TFLOP/s", "of matmul", "host waits"]
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
    parser.add_argument("--profile", choices=MEMBERS, metavar="DECODER", help="only a profile of this decoder")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu.py: torch sees no GPU; `harness doctor` says why (--device cpu --size tiny tries the script)")
        return 3
    setting = Setting(device, options.size, batch=options.batch, steps=options.steps)
    if options.profile:
        precision = options.precision if device.type == "cuda" else "fp32"
        print(profile(setting, options.profile, precision))
        return 0
    lines = measure(setting, options.precision, lambda said: print(said, file=sys.stderr, flush=True))
    known = facts(setting)
    if options.json:
        judged = [dict(zip(("goal", "figure", "met"), one, strict=True)) for one in goals(lines, options.precision)]
        print(json.dumps({"schema": 1, **known, "lines": [asdict(line) for line in lines], "goals": judged}, indent=1))
    else:
        print(table(lines))
        print("\n" + ", ".join(f"{key} {value}" for key, value in known.items()))
        for goal, figure, met in goals(lines, options.precision):
            print(f"{'met   ' if met else 'missed'}  {goal}: {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
