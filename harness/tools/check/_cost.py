"""The cost of a decoder beside UPerNet: parameters and FLOPs at the paper's widths, time at tiny ones.

At the paper's widths nothing is computed: torch's fake tensors know shapes only.
"""

import dataclasses
import statistics
import time
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from harness.config import plugins
from harness.tools.check import _training
from models.contract import Decoder, Features

PAPER = (1024, 512, 124)  # channels of BEiT-Large, side of its window, classes of VSPW
REPEATS = 5


def cost(module: Any, config: Any, own: Any) -> str:
    """Parameters, FLOPs and time of a decoder's window, in eval mode: time with `config`, the rest with its `own`."""
    upernet = plugins.load("decoders", "upernet")
    small = upernet.Config(**_training.NARROW_UPERNET.config)
    mine, theirs = milliseconds(module, config), milliseconds(upernet, small)
    text = f"{mine:.1f} ms per 64 × 64 window as checked (upernet {theirs:.1f})"
    try:
        count, flops = at_paper_size(module, own)
    except Exception as error:  # a path that depends on values has no shapes to follow
        return f"{text}; FLOPs not counted: {type(error).__name__}"
    shared = {field.name for field in dataclasses.fields(upernet.Config)} & {f.name for f in dataclasses.fields(own)}
    _, baseline = at_paper_size(upernet, upernet.Config(**{name: getattr(own, name) for name in shared}))
    return (
        f"{count / 1e6:.1f} M parameters, {flops / 1e9:.0f} GFLOP per 512 × 512 window of BEiT-Large,"
        f" {flops / baseline:.2f} × upernet's of its width; {text}"
    )


def at_paper_size(module: Any, config: Any) -> tuple[int, int]:
    """Parameters, and FLOPs of one window."""
    width, side, num_classes = PAPER
    with FakeTensorMode(), torch.no_grad():
        decoder: Decoder = module.Decoder((width,) * 4, width, num_classes, config).eval()
        features = window(width, side)
        with FlopCounterMode(display=False) as counter:
            decoder.predict(decoder.encode(features, (features,) * len(decoder.past)), zero_prior(decoder, side))
    return sum(value.numel() for value in decoder.parameters()), int(counter.get_total_flops())


@torch.inference_mode()
def milliseconds(module: Any, config: Any) -> float:
    """Return the median time of encode and predict at the tiny BEiT's width."""
    decoder: Decoder = module.Decoder((64,) * 4, 64, 8, config).eval()
    features = window(64, 64)
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        decoder.predict(decoder.encode(features, (features,) * len(decoder.past)), zero_prior(decoder, 64))
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[1:])


def window(width: int, side: int) -> Features:
    """Features of one window as BEiT gives them."""
    levels = tuple(torch.zeros(1, width, side // reduction, side // reduction) for reduction in (4, 8, 16, 32))
    return Features(levels, torch.zeros(1, width, side // 16, side // 16))


def zero_prior(decoder: Decoder, side: int) -> torch.Tensor | None:
    """Return a prior of class 0, where the decoder takes one.  # (1, side, side)"""
    return None if decoder.prior == "none" else torch.zeros(1, side, side, dtype=torch.long)
