"""The counts that an evaluation keeps of a video, of any length. Shapes: K classes; masks and labels (H, W)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.common.atomic_files import temporary
from harness.engine import checkpoint
from harness.engine.metrics import confusion
from harness.results.metric import Counter, ScoredFrame
from harness.results.metrics import Consistency
from harness.results.records import OWN


class Counts:
    """The counts of one task on one video."""

    def __init__(self, num_classes: int, device: torch.device, own: Mapping[str, Counter] | None = None) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.consistency = Consistency(num_classes)
        self.frames = 0
        self.labelled = 0  # pixels of frames that have labels
        self.stage: dict[str, Any] = {}  # what `compare` has counted
        self.own = own or {}  # metrics with counts of their own

    def add(self, mask: Tensor, label: Tensor | None) -> None:
        """Count a frame's mask against its labels, both (H, W)."""
        if label is None:
            self.skip()
            return
        self.frames += 1
        self.labelled += label.numel()
        mask = mask.to(label.dtype)  # an eighth of the bytes
        self.confusion += confusion(label, mask, self.confusion.shape[0])
        self.consistency.add(label.cpu().numpy(), mask.cpu().numpy())

    def skip(self) -> None:
        """Count a frame without labels."""
        self.frames += 1
        self.consistency.interrupt()

    def compare(self, mask: Tensor, before: Tensor | None, windows: int, exited: int | None) -> None:
        """Count how a frame's mask differs from that of the stage before: pixels, and windows not computed again."""
        if before is not None:
            counts = {"pixels": mask.numel(), "moved": (mask != before).sum(), "windows": windows, "exited": exited}
            for key, value in counts.items():
                if value is not None:
                    self.stage[key] = self.stage.get(key, 0) + value

    def observe(self, frame: ScoredFrame) -> None:
        """Show a frame to the metrics with counts of their own."""
        for metric in self.own.values():
            metric.add(frame)

    def save(self, path: Path, allowed: Callable[[], None] = lambda: None) -> None:
        """Write by rename: confusion (K, K), rows are truth; frames; void, the pixels that truth leaves out;
        vc, the totals of `metrics.Consistency` (variants, windows, 2).

        Of a stage also what `compare` counts; of each metric of its own, metric_NAME. `allowed` raises where another
        attempt has the job by now.
        """
        counts = self.confusion.cpu().numpy()
        stage: dict[str, Any] = {key: int(value) for key, value in self.stage.items()}
        own = {OWN + name: metric.sums for name, metric in self.own.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        written = temporary(path)
        with written.open("wb") as file:
            void, vc = self.labelled - int(counts.sum()), self.consistency.totals
            np.savez(file, **{"confusion": counts, "frames": self.frames, "void": void, "vc": vc, **stage, **own})
        checkpoint.replace(written, path, allowed)
