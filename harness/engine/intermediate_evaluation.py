"""Evaluations on the way: what a training's model is worth before it has ended, for whoever may stop it early.

They are how a training runs, never what it makes: in eval mode, under generators of their own, with no weight, no
buffer and no batch touched; a training ends with the same bits with them and without (their keys are `where`). With
`train.keep=best` or `train.patience` they decide which weights are kept, and enter the identity.
"""

import torch

from harness.common.errors import UsageError
from harness.data import contract
from harness.data.contract import Dataset
from harness.data.stream import label_tensor
from harness.engine import distributed, evaluate, runtime, sliding_window
from harness.engine.evaluation_counts import Counts
from harness.engine.multistage import Stages
from harness.engine.runtime import Rank, Stop
from harness.plan.spec import TrainSpec
from harness.results import metrics
from models.segmentor import Segmentor

STREAM = 1  # of random numbers, beside the training's own


class IntermediateEvaluation:
    """When a training is evaluated, and on which videos. Raises UsageError for a split that it cannot be taken on."""

    def __init__(self, job: TrainSpec, dataset: Dataset, rank: Rank) -> None:
        self.job, self.dataset, self.rank = job, dataset, rank
        self.every, self.split = job.train.evaluate_every, job.train.evaluate_split
        if self.every is not None:
            if self.split == "dev" and job.data.hold_out is None:
                raise UsageError("train.evaluate_split=dev: nothing is held out; set data.hold_out, for example to 0.1")
            self.videos = spread(contract.evaluated_videos(dataset, self.split), job.train.evaluate_videos)

    def due(self, step: int, steps: int) -> bool:
        """Return whether the model is evaluated after `step` of `steps` iterations.

        After the last one it is where the evaluations decide on the weights that are kept.
        """
        if self.every is None:
            return False
        return step == steps if step >= steps and self.job.train.selects else step % self.every == 0 and step < steps

    def miou(self, model: Segmentor, step: int, stop: Stop) -> float | None:
        """Return the model's mIoU in percent, the same on all ranks; None if a signal broke the evaluation off."""
        rank = self.rank
        runtime.seed_all(self.job.seed, step, rank.rank, STREAM)  # the next iteration seeds again
        geometry = sliding_window.geometry(self.job.evaluate)
        counts = Counts(len(self.dataset.classes), rank.device)
        frames = {video: contract.evaluated(self.dataset, self.split, video) for video in self.videos}
        lengths = {video: len(names) for video, names in frames.items()}
        stages = Stages(model, geometry, self.job.precision, rank.device)
        try:
            for video in evaluate.share(lengths, rank.rank, rank.world):
                starts = contract.starts(self.dataset, self.split, video)
                for name, frame in evaluate.read_ahead(self.dataset, self.split, video, frames[video]):
                    if name in starts:
                        stages.start()
                    stop.beat()
                    if stop.status is not None:
                        break
                    image = torch.from_numpy(frame.image).to(rank.device).permute(2, 0, 1)[None].float()
                    label = None if frame.label is None else label_tensor(frame.label).to(rank.device)
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
    """Return at most so many videos, evenly from the whole list."""
    if most is None or most >= len(videos):
        return videos
    return tuple(videos[index * len(videos) // most] for index in range(most))
