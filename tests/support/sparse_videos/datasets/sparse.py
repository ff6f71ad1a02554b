"""The synthetic videos with labels in some frames only, as Cityscapes has them in one of 30; for tests."""

from dataclasses import dataclass
from typing import Literal

from harness.data.contract import Frame
from harness.data.datasets import synthetic

VERSION = 1


@dataclass(frozen=True)
class Config:
    """Which frames are labelled, and the synthetic videos' own options."""

    pattern: str = "..x.."  # of a video's frames, repeated; x is labelled
    bare: tuple[str, ...] = ()  # videos without a labelled frame
    masks: Literal["labelled", "all"] = "labelled"  # the frames whose label `read` gives
    classes: int = 4
    train_videos: int = 6
    val_videos: int = 3
    test_videos: int = 1
    frames: int = 10
    height: int = 32
    width: int = 48
    objects: int = 2


class Dataset(synthetic.Dataset):
    """Synthetic videos, some of whose frames have no label (harness.data.contract.Dataset)."""

    def __init__(self, config: Config) -> None:
        own = {name: value for name, value in vars(config).items() if name not in ("pattern", "bare", "masks")}
        super().__init__(synthetic.Config(**own))
        self.sparse = config

    def labelled(self, split: str, video: str) -> tuple[str, ...]:
        """Return the frames that have a label."""
        if split == "test" or video in self.sparse.bare:
            return ()
        pattern = self.sparse.pattern
        names = self.frames(split, video)
        return tuple(name for index, name in enumerate(names) if pattern[index % len(pattern)] == "x")

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Return the frame, without its label where it has none."""
        drawn = super().read(split, video, frame)
        given = self.sparse.masks == "all" or frame in self.labelled(split, video)
        return drawn if given else drawn._replace(label=None)
