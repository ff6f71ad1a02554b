"""The training stream: position n -> one augmented sample, a function of (seed, n) and of nothing else.

V videos make a cycle: position n is video permutation(seed, n // V)[n % V], so each is seen once a cycle, and a split
smaller than a batch fills it with the next cycle's. Workers, order of access and resuming from the middle change no
sample, since nothing is carried from one to the next and no global generator is used.

Shapes: B samples, T frames of a clip (oldest to current), c the crop's side.
"""

import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.data import contract
from harness.data.augmentation import augment
from harness.data.contract import Dataset

SAMPLE, ORDER = 0, 1  # streams of random numbers
STOPPING = (signal.SIGINT, signal.SIGTERM)  # which workers leave to the parent


class Sample(NamedTuple):
    """One clip, augmented."""

    frames: Tensor  # (T, 3, c, c) uint8
    labels: Tensor  # (T, c, c) uint8, or int32 of more than 255 classes; contract.void(K), also in unlabelled frames
    key: int  # seed of the decoder's own random choices
    name: str  # video/frame
    labelled: Tensor  # (T,) bool


class Batch(NamedTuple):
    """Samples of a list of positions, in its order."""

    frames: Tensor  # (B, T, 3, c, c) uint8
    labels: Tensor  # (B, T, c, c) uint8 or int32
    keys: Tensor  # (B,) int64
    names: tuple[str, ...]  # video/frame
    labelled: Tensor | None = None  # (B, T) bool; None: all


class TrainStream(TorchDataset[Sample]):
    """Map-style and endless: stream[n] is sample n.

    `offsets` are the clip's frames relative to the current one, oldest first and 0 last; those before the video's
    start (contract.starts) are the frame there. Current frames are labelled ones (contract.labelled), each of a video's
    as often as any other; videos without one are left out. Raises UsageError for sizes too small to resize to,
    UnfitError for a split without videos or labels, and what the data set raises.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        offsets: Sequence[int] = (0,),
        crop: int,
        short_side: int,
        seed: int,
        split: str = "train",
    ) -> None:
        assert offsets[-1] == 0
        assert max(offsets) == 0
        for name, value, least in (("crop", crop, 2), ("short_side", short_side, 4)):
            if value < least:
                raise UsageError(f"train.{name}={value}: must be at least {least}")
        self.dataset, self.split = dataset, split
        self.offsets, self.crop, self.short_side = tuple(offsets), crop, short_side
        self.seed = seed % 2**64
        self.void = contract.void(len(dataset.classes))
        self.videos = contract.labelled_videos(dataset, split)
        if not self.videos:
            what = "labelled frame" if dataset.videos(split) else "video"
            raise UnfitError(f"the {split} split has no {what} to train on")

    @property
    def sample_bytes(self) -> int:
        """Return the bytes of a sample's colours and labels."""
        return len(self.offsets) * self.crop**2 * (3 + (1 if self.void == contract.VOID else 4))

    def video(self, position: int) -> str:
        """Return the name of the video at a position."""
        cycle, index = divmod(position, len(self.videos))
        return self.videos[order(self.seed, cycle, len(self.videos))[index]]

    def __getitem__(self, position: int) -> Sample:
        rng = np.random.default_rng([self.seed, SAMPLE, position])
        key = int(rng.integers(2**63))
        video = self.video(position)
        names = self.dataset.frames(self.split, video)
        drawn = contract.labelled(self.dataset, self.split, video)
        current = names.index(drawn[int(rng.integers(len(drawn)))])
        starts = contract.starts(self.dataset, self.split, video)
        first = max(index for index in range(current + 1) if names[index] in starts)
        clip = [names[max(first, current + offset)] for offset in self.offsets]
        images, labels, labelled = self._read(video, clip)
        images, labels = augment(images, labels, self.crop, self.short_side, rng, self.void)
        return Sample(images, labels, key, f"{video}/{names[current]}", labelled)

    def _read(self, video: str, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images (T, 3, H, W), labels (T, H, W) and which have them (T,), of frames each decoded once."""
        frames = {name: self.dataset.read(self.split, video, name) for name in dict.fromkeys(names)}
        if len({frame.image.shape for frame in frames.values()}) > 1:
            raise UnfitError(f"video {video}: frames {', '.join(frames)} differ in size; give them the same size")
        images = np.stack([frames[name].image for name in names])  # (T, H, W, 3)
        if frames[names[-1]].label is None:
            raise UnfitError(f"the {self.split} split has no labels (video {video}); train on one that has")
        nothing = np.full(images.shape[1:3], self.void, contract.label_type(len(self.dataset.classes)))
        labels = [nothing if (label := frames[name].label) is None else label for name in names]
        labelled = torch.tensor([frames[name].label is not None for name in names])
        return torch.from_numpy(images).permute(0, 3, 1, 2), label_tensor(np.stack(labels)), labelled


def label_tensor(label: contract.Label) -> Tensor:
    """Return labels as a tensor of the same shape: int32 where they are uint16, which torch hardly knows."""
    return torch.from_numpy(label.astype(np.int32) if label.dtype == np.uint16 else label)


@lru_cache(maxsize=4)
def order(seed: int, cycle: int, num_videos: int) -> tuple[int, ...]:
    """Return the order of a cycle's videos."""
    return tuple(np.random.default_rng([seed, ORDER, cycle]).permutation(num_videos).tolist())


def loader(
    stream: TrainStream, positions: Iterable[list[int]], workers: int = 0, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield a batch for each list of positions, the same for any number of workers.

    A HarnessError met by a worker is raised here as it is. Workers ignore SIGINT and SIGTERM: the parent decides, and
    they leave with it. `positions` may be endless; workers read ahead of it by two lists each.
    """
    loaded = DataLoader(
        _Reader(stream),
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=prepare_worker,
        multiprocessing_context=worker_start() if workers else None,
        generator=torch.Generator(),  # else an iteration draws from the global one
        pin_memory=pin_memory,
    )
    for batch in start_workers(loaded):  # not by name: an error's traceback would keep them
        if isinstance(batch, HarnessError):
            raise batch
        yield batch


def start_workers(loaded: DataLoader[Any]) -> Iterator[Any]:
    """Return the loader's iterator, whose workers inherit STOPPING blocked until they ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loaded)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Reader(TorchDataset[Any]):
    """The stream as DataLoader's fetcher asks for it: a list of positions at once, a person's mistake as a value.

    DataLoader would re-raise it with the worker's traceback as its message; it has to stay one line.
    """

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def __getitems__(self, positions: list[int]) -> list[Sample] | HarnessError:
        try:
            return [self.stream[position] for position in positions]
        except HarnessError as error:
            return error


def collate(samples: list[Sample] | HarnessError) -> Batch | HarnessError:
    """Stack samples; an error passes."""
    if isinstance(samples, HarnessError):
        return samples
    return Batch(
        torch.stack([sample.frames for sample in samples]),
        torch.stack([sample.labels for sample in samples]),
        torch.tensor([sample.key for sample in samples], dtype=torch.int64),
        tuple(sample.name for sample in samples),
        torch.stack([sample.labelled for sample in samples]),
    )


def worker_start() -> str:
    """Return how workers start: forked on Linux, to share what is loaded; they run one thread and leave CUDA alone."""
    return "fork" if sys.platform == "linux" else "spawn"


def prepare_worker(worker: int) -> None:
    """Leave stopping to the parent, whose checkpoint still needs its workers, and use one thread."""
    del worker
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    torch.set_num_threads(1)
