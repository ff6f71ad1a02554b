"""Snapshots that a job keeps for people. No number depends on it, and nothing waits for it.

memory/step-000000500.npy    of a training: M (K, C) as each checkpoint found it, float16, nan where a row is unset
samples/VIDEO/FRAME.png      of an evaluation: the mask of each video's middle frame, as palette indices
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from harness.common.atomic_files import temporary
from harness.data.contract import label_type
from harness.jobdir.paths import JobDir
from harness.results.palette import palette
from models.layers.feature_memory import FeatureMemory


def memory(folder: Path, model: nn.Module, step: int) -> None:
    """Save M after `step` iterations; a model without M saves nothing."""
    feature_memory = next((module for module in model.modules() if isinstance(module, FeatureMemory)), None)
    if feature_memory is None:
        return
    rows = feature_memory.rows.detach().float().masked_fill(~feature_memory.initialised[:, None], float("nan"))
    target = JobDir(folder).memory / f"step-{step:09d}.npy"
    target.parent.mkdir(exist_ok=True)
    written = temporary(target)
    with written.open("wb") as file:
        np.save(file, rows.half().cpu().numpy())
    written.replace(target)


def middle(names: tuple[str, ...]) -> str:
    """Return the frame of a video whose mask is kept."""
    return names[len(names) // 2]


def sample(path: Path, mask: Tensor, classes: int) -> None:
    """Write a mask (H, W) as palette indices; of more than 255 classes as 16-bit grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.cpu().numpy().astype(label_type(classes)))
    if picture.mode == "L":
        picture.putpalette(palette(classes).tobytes())  # turns the mode from L to P, values stay
    picture.save(path)
