"""What an evaluation keeps of a video, whatever its number of frames. Shapes: K classes; masks and labels (H, W)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.engine import checkpoint
from harness.engine.metrics import confusion


class Counts:
    """What a task learns of one video."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.frames = 0
        self.labelled = 0  # pixels of frames that have labels

    def add(self, mask: Tensor, label: Tensor | None) -> None:
        """Take in a frame's mask and labels, both (H, W)."""
        self.frames += 1
        if label is not None:
            self.labelled += label.numel()
            self.confusion += confusion(label, mask, self.confusion.shape[0])

    def save(self, path: Path, allowed: Callable[[], None] = lambda: None) -> None:
        """Write by rename: confusion (K, K), rows are truth; frames; void, the pixels that truth leaves out.

        `allowed` raises where another attempt has the job by now.
        """
        counts = self.confusion.cpu().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        written = checkpoint.temporary(path)
        with written.open("wb") as file:
            np.savez(file, confusion=counts, frames=self.frames, void=self.labelled - int(counts.sum()))
        checkpoint.replace(written, path, allowed)
