"""Evaluations on the way: what a training's model is worth before it has ended, for whoever may stop it early.

They are how a training runs, never what it makes: in eval mode, under generators of their own, with no weight, no
buffer and no batch touched; a training ends with the same bits with them and without (their keys are `where`).
"""

from collections.abc import Mapping
from typing import Any

import torch

from harness.common.errors import UsageError
from harness.data import contract
from harness.data.contract import Dataset
from harness.engine import distributed, evaluate, runtime, sliding_window
from harness.engine.evaluation_counts import Counts
from harness.engine.multistage import Stages
from harness.engine.runtime import Rank, Stop
from harness.results import metrics
from models.segmentor import Segmentor

STREAM = 1  # of random numbers, beside the training's own


class Looks:
    """When a training is evaluated, and on which videos. Raises UsageError for a split that it cannot be taken on."""

    def __init__(self, job: Mapping[str, Any], dataset: Dataset, rank: Rank) -> None:
        options = job["train"]
        self.every: int | None = options.get("evaluate_every")
        self.job, self.dataset, self.rank = job, dataset, rank
        self.split: str = options.get("evaluate_split", "dev")
        if self.every is not None:
            if self.split == "dev" and "hold_out" not in job["data"]:
                raise UsageError("train.evaluate_split=dev: nothing is held out; set data.hold_out, for example to 0.1")
            self.videos = spread(dataset.videos(self.split), options.get("evaluate_videos"))

    def due(self, step: int, steps: int) -> bool:
        """Whether the model is looked at after `step` of `steps` iterations; its end is for the evaluation itself."""
        return self.every is not None and step % self.every == 0 and step < steps

    def take(self, model: Segmentor, step: int, stop: Stop) -> float | None:
        """mIoU of the model as it stands, in percent, the same on all ranks; None where a signal broke it off."""
        rank, how = self.rank, self.job["evaluate"]
        runtime.seed_all(self.job["seed"], step, rank.rank, STREAM)  # the next iteration seeds again
        geometry = sliding_window.geometry(
            how["window"], how.get("stride"), how.get("short_side"), (1.0,), False, how.get("small_views")
        )
        counts = Counts(len(self.dataset.classes), rank.device)
        lengths = {video: len(self.dataset.frames(self.split, video)) for video in self.videos}
        stages = Stages(model, geometry, self.job["precision"], rank.device)
        try:
            for video in evaluate.share(lengths, rank.rank, rank.world):
                starts = contract.starts(self.dataset, self.split, video)
                for name, frame in evaluate.read_ahead(self.dataset, self.split, video):
                    if name in starts:
                        stages.start()
                    stop.beat()
                    if stop.status is not None:
                        break
                    image = torch.from_numpy(frame.image).to(rank.device).permute(2, 0, 1)[None].float()
                    label = None if frame.label is None else torch.from_numpy(frame.label).to(rank.device)
                    for prediction in stages.predict(image, 0):
                        counts.add(prediction.mask, label)
        finally:
            model.train()
        broken, *cells = distributed.agree(int(stop.status is not None), *counts.confusion.flatten().tolist())
        if broken:
            return None
        confusion = torch.tensor(cells).reshape(counts.confusion.shape)
        return 100 * metrics.miou(confusion.numpy())


def spread(videos: tuple[str, ...], most: int | None) -> tuple[str, ...]:
    """At most so many videos, evenly from the whole list."""
    if most is None or most >= len(videos):
        return videos
    return tuple(videos[index * len(videos) // most] for index in range(most))
