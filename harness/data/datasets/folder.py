"""Data as it lies: any folder of images and masks, found by templates of their paths, labels by a map.

    images: leftImg8bit_sequence/{split}/*/{video}_{frame}_leftImg8bit.png
    masks: gtFine/{split}/*/{video}_{frame}_gtFine_labelIds.png

An image and a mask of the same `{video}` and `{frame}` are a pair. Masks are numbers of 1 to 16 bits, colours, or one
channel of a colour picture. With `sparse`, frames without a mask are unlabelled; without it they are refused. Presets
for public data sets are in experiments/presets; docs/DATA.md says what of each was seen with real files.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.common import ranges
from harness.common.errors import UnfitError, UsageError
from harness.data import frame_order, pictures
from harness.data.contract import Frame
from harness.data.datasets import _label_map, _templates
from harness.data.datasets._label_map import LabelMap
from harness.data.datasets._listed import Listed
from harness.data.pictures import shown

VERSION = 1

SPLITS = ("train", "val", "test")
OPTIONAL = "test"  # may be without masks
CHANNELS = {"red": 0, "green": 1, "blue": 2}


@dataclass(frozen=True)
class Config:
    """Where files lie and what their labels mean. What is read is known by its content, not by these templates."""

    root: str | None = field(default=None, metadata={"where": True, "path": True})
    # paths below the root, with {video}, {frame}, maybe {split}, and * for any text
    images: str = field(default="images/{split}/{video}/{frame}.*", metadata={"where": True})
    masks: str = field(default="masks/{split}/{video}/{frame}.png", metadata={"where": True})
    # a list below the root (.txt: a video, VIDEO/FRAME or image a line), or patterns of videos or VIDEO/FRAME in a row,
    # ! before those left out; None: all images of the split
    train: str | None = field(default=None, metadata={"where": True})
    val: str | None = field(default=None, metadata={"where": True})
    test: str | None = field(default=None, metadata={"where": True})
    sparse: bool = field(default=False, metadata={"where": True})  # whether frames may be without mask
    # splits, in a row, whose masks are not the truth (dummies for a server)
    unlabelled: str | None = field(default=None, metadata={"where": True})
    classes: tuple[str, ...] = ()  # names of labels 0..K-1; (): those of label_map, by their numbers
    # number, range (0-6) or colour (128,64,128) -> name of a class, null for void; None: classes by their numbers
    label_map: dict[str, str | None] | None = None
    # number of the first class where there is no label_map; None: 0. Numbers before it are void
    first: int | None = field(default=None, metadata={"range": "[0, 65535]"})
    channel: Literal["red", "green", "blue"] | None = None  # of a colour picture, which holds the numbers
    # of panoptic ids: numbers from divide_from on (None: from divide on) are divided, as 26001 by 1000
    divide: int | None = field(default=None, metadata={"range": "[2, 65535]"})
    divide_from: int | None = field(default=None, metadata={"range": "[1, 65535]"})
    # a number left out between two frames: "start" begins the video anew, "split" makes two videos; None: neighbours
    gap: Literal["start", "split"] | None = None
    sizes: Literal["start"] | None = None  # "start": a frame of another size begins the video anew; None: refused
    # a regular expression whose one group names the recording that a video was cut from; None: each video is its own
    recording: str | None = field(default=None, metadata={"where": True})
    # numbers of videos, for plans made where the data is absent
    expect_train: int = field(default=1, metadata={"where": True, "range": "[0, inf)"})
    expect_val: int = field(default=1, metadata={"where": True, "range": "[0, inf)"})
    expect_test: int = field(default=0, metadata={"where": True, "range": "[0, inf)"})


class Files(NamedTuple):
    """Files of a frame; one that is not labelled has no mask."""

    image: Path
    mask: Path | None


class Dataset(Listed):
    """Videos of any folder (harness.data.contract.Dataset).

    Nothing is read before it is asked for. Raises UsageError for options that make no sense; every other mistake is an
    UnfitError of the method that meets it.
    """

    def __init__(self, config: Config) -> None:
        ranges.check(Config, vars(config), "data.folder.")
        for key in ("images", "masks"):
            _templates.check(getattr(config, key), f"data.folder.{key}")
        unknown = [split for split in (config.unlabelled or "").split() if split not in SPLITS]
        if unknown:
            raise UsageError(f"data.folder.unlabelled={config.unlabelled}: choose from {', '.join(SPLITS)}")
        if config.divide_from is not None and config.divide is None:
            raise UsageError("data.folder.divide_from: needs data.folder.divide")
        super().__init__(config, "folder")
        self.dirty: Counter[Any] = Counter()  # pixels by what stands for nothing, over the masks read by this object
        self.unpaired: dict[str, list[Path]] = {}  # masks without image, by split
        self._label_map = LabelMap(config.label_map or {}, config.classes, config.first or 0)
        if self._label_map.colours and (config.channel or config.divide):
            raise UsageError("data.folder.label_map: colours cannot be combined with channel or divide")
        if config.label_map and config.first is not None:
            raise UsageError("data.folder.first: has no effect with data.folder.label_map; remove it")
        self._splits: dict[str, dict[str, dict[str, Files]]] = {}
        self._starts: dict[tuple[str, str], frozenset[str]] = {}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of labels 0..K-1."""
        if len(self._label_map.classes) < 2:
            raise UnfitError(
                "data.folder.classes: name at least two, such as '[road,tree]', or set data.folder.label_map"
            )
        return self._label_map.classes

    def videos(self, split: str) -> tuple[str, ...]:
        """Return the names of the split's videos, in the order of its list, else sorted."""
        return tuple(self._split(split))

    def frames(self, split: str, video: str) -> tuple[str, ...]:
        """Return the names of a video's frames in time."""
        return tuple(self.files(split, video))

    def labelled(self, split: str, video: str) -> tuple[str, ...]:
        """Return the frames that have a mask."""
        return tuple(name for name, files in self.files(split, video).items() if files.mask is not None)

    def starts(self, split: str, video: str) -> frozenset[str]:
        """Return the frames that nothing is before: after a gap in the numbering or of another size, if so set."""
        if (split, video) not in self._starts:
            names = self.frames(split, video)
            starts = set(frame_order.after_gaps(names)) if self.config.gap == "start" else set()
            if self.config.sizes == "start":
                sizes = {name: self.size(split, video, name) for name in names}
                starts |= {later for earlier, later in pairwise(names) if sizes[earlier] != sizes[later]}
            self._starts[split, video] = frozenset(starts)
        return self._starts[split, video]

    def size(self, split: str, video: str, frame: str) -> tuple[int, int]:
        """Return the height and width of a frame's image, by its header."""
        return pictures.size_of(self.files(split, video)[frame].image)

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Return the image (H, W, 3) RGB and label (H, W) in 0..K-1 and void(K); None for a frame without mask."""
        files = self.files(split, video)
        if frame not in files:
            raise UnfitError(f"video {video} of {split} has no frame {frame!r}")
        image, path = pictures.read_image(files[frame].image), files[frame].mask
        if path is None:
            return Frame(image, None)
        if self._label_map.colours:
            label, dirty = self._label_map.of_colours(pictures.read_colours(path))
            self.dirty.update(dirty)
        else:
            label, unclear = self._label_map.numbers(self._numbers(path))
            self.dirty.update(unclear)
        if label.shape != image.shape[:2]:
            (height, width), (rows, columns) = label.shape, image.shape[:2]
            raise UnfitError(
                f"{shown(path)}: the mask is {width}×{height}, its image {columns}×{rows}; recreate the pair"
            )
        return Frame(image, label)

    def split_files(self, split: str) -> Iterator[tuple[str, Path]]:
        """Yield each image and mask of the split: VIDEO/origin/FRAME or VIDEO/mask/FRAME, and where it is."""
        for video, frames in self._split(split).items():
            for name, files in frames.items():
                yield f"{video}/origin/{name}{files.image.suffix}", files.image
                if files.mask is not None:
                    yield f"{video}/mask/{name}{files.mask.suffix}", files.mask

    def files(self, split: str, video: str) -> dict[str, Files]:
        """Return name -> files of the video's frames in time."""
        videos = self._split(split)
        if video not in videos:
            raise UnfitError(f"the {split} split has no video {video!r}")
        return videos[video]

    def _numbers(self, path: Path) -> NDArray[np.integer]:
        """Return the numbers of a mask's classes.  # (H, W)"""
        if self.config.channel is not None:
            mask: NDArray[np.integer] = pictures.read_colours(path)[..., CHANNELS[self.config.channel]]
        else:
            mask = pictures.read_mask(path, highest=_label_map.HIGHEST)
        if self.config.divide is None:
            return mask
        first = self.config.divide_from or self.config.divide
        return np.where(mask >= first, mask // self.config.divide, mask)

    def _split(self, split: str) -> dict[str, dict[str, Files]]:
        """Return video -> frame -> files of a split, listed once."""
        if split not in self._splits:
            if split not in SPLITS:
                raise UsageError(f"no split {split!r}: a folder has {', '.join(SPLITS)}")
            self._splits[split] = self._list(split)
        return self._splits[split]

    def _list(self, split: str) -> dict[str, dict[str, Files]]:
        root, config = self._root(), self.config
        images = _templates.files(root, config.images, split, pictures.IMAGES)
        if not images:
            raise UnfitError(
                f"{shown(root)}: no image matches data.folder.images={config.images} ({split}); correct it, or the root"
            )
        chosen = self._chosen(split, images)
        masks: dict[tuple[str, str], Path] = {}
        if split not in (config.unlabelled or "").split():
            masks = _templates.files(root, config.masks, split, pictures.MASKS)
            self.unpaired[split] = sorted(path for frame, path in masks.items() if frame not in images)
            self._check_masks(split, chosen, images, masks)
        videos: dict[str, dict[str, Files]] = {}
        for video, frame in chosen:
            files = Files(images[video, frame], masks.get((video, frame)))
            videos.setdefault(video, {})[frame] = files
        return dict(self._in_time(videos))

    def _chosen(self, split: str, images: dict[tuple[str, str], Path]) -> list[tuple[str, str]]:
        """Return the frames of a split among those that the template matches."""
        text: str | None = getattr(self.config, split)
        key = f"data.folder.{split}"
        if text is not None:
            if text.endswith(".txt"):
                lines = _templates.read_lines(self._root() / text, key)
                return _templates.of_lines(lines, images, self._root())
            return _templates.of_patterns(text, images, key)
        if "{split}" not in self.config.images:
            raise UnfitError(f"{key} is not set: list its videos, because data.folder.images has no {{split}}")
        return sorted(images)

    def _check_masks(
        self,
        split: str,
        chosen: list[tuple[str, str]],
        images: dict[tuple[str, str], Path],
        masks: dict[tuple[str, str], Path],
    ) -> None:
        """Raise UnfitError where masks are missing that must be there."""
        bare = [frame for frame in chosen if frame not in masks]
        if split == OPTIONAL and len(bare) == len(chosen):
            return
        template = f"data.folder.masks={self.config.masks}"
        if len(bare) == len(chosen):
            found = "no file matches"
            if masks:
                (video, frame), path = min(masks.items())
                found = (
                    f"the files that match belong to other frames: {shown(path)} is frame {frame!r} of video {video!r}"
                )
            raise UnfitError(f"no image of {split} has a mask: {found} ({template}); correct it")
        if bare and not self.config.sparse:
            raise UnfitError(
                f"{shown(images[bare[0]])}: has no mask ({len(bare)} of {len(chosen)} frames of {split}; {template}); "
                "add them, or set data.folder.sparse=true if these frames have no label"
            )

    def _in_time(self, videos: dict[str, dict[str, Files]]) -> Iterator[tuple[str, dict[str, Files]]]:
        """Yield videos with their frames in time, cut at gaps if so set: a part is named after its first frame."""
        for video, frames in videos.items():
            names = frame_order.in_time(frames)
            if self.config.gap != "split":
                yield video, {name: frames[name] for name in names}
                continue
            gaps = {names.index(name) for name in frame_order.after_gaps(names)}
            for first, last in pairwise(sorted({0, *gaps, len(names)})):
                yield f"{video}_{names[first]}", {name: frames[name] for name in names[first:last]}

    def _root(self) -> Path:
        if self.config.root is None:
            raise UnfitError("data.folder.root is not set: give the data's folder as data.folder.root=DIR")
        root = Path(os.path.expanduser(self.config.root))
        if not root.is_dir():
            raise UnfitError(f"{shown(root)}: no such folder; set data.folder.root=DIR to the data's folder")
        return root
