"""VSPW 480p, or any data in its layout: ROOT/{train,val,test}.txt and ROOT/data/VIDEO/{origin/*.jpg,mask/*.png}.

Labels follow the official map: 0 ("others"), 255 ("void") and whatever else is not a class become 255, the rest moves
down by one. Values that are neither are counted in `Dataset.dirty`. Masks are read as stored: palette files give their
indices, never colours. The test split has no masks.

Source: the README of VSPW's download page and the layout read by its baseline code.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UnfitError, UsageError
from harness.data.contract import VOID, Frame
from harness.data.datasets import _vspw_classes
from harness.data.pictures import read_image, read_mask, shown

VERSION = 1

SPLITS = ("train", "val", "test")
UNLABELLED = "test"
CLASS_LIST = "label_num_dic_final.json"
LONGEST = 200  # bytes of a video's name: files are named after it


@dataclass(frozen=True)
class Config:
    """Where the data lies; what it is follows from its split lists and class names."""

    root: str | None = field(default=None, metadata={"where": True, "path": True})
    # a regular expression whose one group names the recording that a video was cut from; None: each video is its own
    recording: str | None = field(default=None, metadata={"where": True})
    # published numbers of videos, for plans made where the data is absent
    expect_train: int = field(default=2806, metadata={"where": True})
    expect_val: int = field(default=343, metadata={"where": True})
    expect_test: int = field(default=387, metadata={"where": True})


class Dataset:
    """Videos of a folder in VSPW's layout (harness.data.contract.Dataset).

    Nothing is read before it is asked for. Raises UsageError for a `recording` that is no regular expression with one
    group; every other mistake is an UnfitError of the method that meets it.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dirty: Counter[int] = Counter()  # pixels by mask value, over the masks read by this object
        self._videos: dict[str, tuple[str, ...]] = {}
        self._frames: dict[tuple[str, str], dict[str, Path]] = {}
        self._recording = compile_recording(config.recording)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of labels 0..K-1: of the root's own list, else VSPW's 124."""
        if self.config.root is None:
            return _vspw_classes.NAMES
        path = home(self.config.root) / CLASS_LIST
        return read_classes(path) if os.path.lexists(path) else _vspw_classes.NAMES

    def videos(self, split: str) -> tuple[str, ...]:
        """Names of the split's videos, in the order of its list."""
        if split not in self._videos:
            if split not in SPLITS:
                raise UsageError(f"no split {split!r}: VSPW has {', '.join(SPLITS)}")
            self._videos[split] = read_split(self._root() / f"{split}.txt")
        return self._videos[split]

    def frames(self, split: str, video: str) -> tuple[str, ...]:
        """Stems of the video's images, in the order of the file names; each has a mask, but in the test split."""
        return tuple(self._images(split, video))

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Image (H, W, 3) RGB and label (H, W) in 0..K-1 and 255; the label is None in the test split."""
        folder = self._root() / "data" / video
        images = self._images(split, video)
        if frame not in images:
            raise UnfitError(f"{shown(folder / 'origin')}: has no frame {shown(frame + '.jpg')}")
        image = read_image(images[frame])
        if split == UNLABELLED:
            return Frame(image, None)
        path = folder / "mask" / f"{frame}.png"
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            (height, width), (rows, columns) = mask.shape, image.shape[:2]
            raise UnfitError(
                f"{shown(path)}: the mask is {width}×{height}, its image {columns}×{rows}; make the pair anew"
            )
        label, dirty = map_labels(mask, len(self.classes))
        self.dirty.update(dirty)
        return Frame(image, label)

    def digest(self, split: str) -> str | None:
        """sha256 of the split's list, in its order, and the class names; the same wherever the data lies."""
        content = json.dumps([self.videos(split), self.classes])
        return hashlib.sha256(content.encode()).hexdigest()

    def split_files(self, split: str) -> Iterator[tuple[str, Path]]:
        """Yield each image and mask of the split: its path below ROOT/data, and where it is."""
        for video in self.videos(split):
            masks = self._root() / "data" / video / "mask"
            for stem, image in self._images(split, video).items():
                yield f"{video}/origin/{image.name}", image
                if split != UNLABELLED:
                    yield f"{video}/mask/{stem}.png", masks / f"{stem}.png"

    def unit(self, video: str) -> str:
        """The recording named by `data.vspw.recording`; the video itself without it, or where it does not match."""
        found = self._recording.match(video) if self._recording else None
        return found[1] or video if found else video

    def planned(self, split: str) -> int:
        """Length of the split's list; the published number where there is none that can be read."""
        try:
            return len(self.videos(split))
        except UnfitError:
            return int(getattr(self.config, f"expect_{split}"))

    def _root(self) -> Path:
        if self.config.root is None:
            raise UnfitError("data.vspw.root is not set: give VSPW 480p's folder as data.vspw.root=DIR")
        root = home(self.config.root)
        if not os.path.isdir(root):
            raise UnfitError(f"{shown(root)}: no such folder; set data.vspw.root=DIR to VSPW 480p's folder")
        return root

    def _images(self, split: str, video: str) -> dict[str, Path]:
        """Stem -> image, checked once against the masks."""
        if (split, video) not in self._frames:
            if video not in self.videos(split):
                raise UnfitError(f"{split}.txt does not list the video {video!r}; add it to the list")
            folder = self._root() / "data" / video
            images = list_files(folder / "origin", ".jpg", f"listed in {split}.txt")
            if split != UNLABELLED:
                masks = list_files(folder / "mask", ".png", f"the {split} split needs labels")
                bare = [stem for stem in images if stem not in masks]
                if bare:
                    first, add = shown(images[bare[0]]), shown(f"mask/{bare[0]}.png")
                    raise UnfitError(f"{first}: has no mask ({len(bare)} such frames); add {add}")
            self._frames[split, video] = images
        return self._frames[split, video]


def compile_recording(pattern: str | None) -> re.Pattern[str] | None:
    """The regular expression that names a recording. Raises UsageError unless it has exactly one group."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"data.vspw.recording={pattern}: no regular expression: {error}") from error
    if compiled.groups != 1:
        raise UsageError(f"data.vspw.recording={pattern}: has {compiled.groups} groups, needs one for the recording")
    return compiled


def read_split(path: Path) -> tuple[str, ...]:
    """Video names, one a line; blank lines, CRLF and a missing last newline are fine.

    Raises UnfitError for a file that is missing, empty or no text, for a name listed twice, and for one that is too
    long or no plain folder name.
    """
    try:
        lines = text_of(path).splitlines()
    except FileNotFoundError as error:
        raise UnfitError(f"{shown(path)}: no such split list; is data.vspw.root VSPW 480p's folder?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnfitError(f"{shown(path)}: cannot be read: {reason(error)}; fetch the list again") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UnfitError(f"{shown(path)}: lists no video; write one name a line")
    for name, times in Counter(names).items():
        if name in (".", "..") or any(character in name for character in "/\\\0"):
            raise UnfitError(f"{shown(path)}: {name!r} is no video name; write the name of a folder in data/")
        if len(name.encode()) > LONGEST:
            raise UnfitError(f"{shown(path)}: {name[:20]!r}… is longer than {LONGEST} bytes; rename the video")
        if times > 1:
            raise UnfitError(f"{shown(path)}: lists {name!r} {times} times; keep one")
    return tuple(names)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a file {"others": 0, "wall": 1, …} in numeric order; 0 and 255 are no classes.

    Raises UnfitError unless the numbers are 1..K without a gap, K at most 254 (255 is void), each with its own name.
    """
    try:
        found = json.loads(text_of(path), object_pairs_hook=Pairs)
        if not isinstance(found, Pairs):
            raise TypeError(f"it holds a {type(found).__name__}")
        numbers = [(whole(number), name) for name, number in found]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        problem = f"no mapping of class names to numbers: {reason(error)}"
        raise UnfitError(f"{shown(path)}: {problem}; fetch it again") from error
    for name, times in Counter(name for _, name in numbers).items():
        if times > 1:
            raise UnfitError(f"{shown(path)}: holds {name!r} {times} times; give each number its own name")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise UnfitError(f"{shown(path)}: {name!r} holds half a character; write the name anew")
    real = sorted((number, name) for number, name in numbers if number not in (0, VOID))
    if not 0 < len(real) < VOID or [number for number, _ in real] != list(range(1, len(real) + 1)):
        raise UnfitError(f"{shown(path)}: class numbers must be 1..K without gap or repetition, K at most {VOID - 1}")
    return tuple(name for _, name in real)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with every pair that its text has, also where a name stands twice."""


def whole(number: Any) -> int:
    """A class number, also where it stands in quotes. Raises TypeError or ValueError for all but whole numbers."""
    if type(number) not in (int, str):
        raise TypeError(f"{str(number)[:20]!r} is no whole number")
    return int(number)


def text_of(path: Path) -> str:
    """A file's text. Raises OSError, and UnicodeDecodeError for what is no UTF-8."""
    if os.path.lexists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise OSError("it is no file")
    return path.read_text(encoding="utf-8-sig")


def home(root: str) -> Path:
    """A folder as a path; ~ is the home of a person whom the system knows."""
    return Path(os.path.expanduser(root))


def reason(error: Exception) -> str:
    """What an error says beside the path, in one line."""
    found = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(found.split()))


def list_files(folder: Path, suffix: str, purpose: str) -> dict[str, Path]:
    """Stem -> file of a folder's files with a suffix, sorted; hidden ones are skipped. Raises UnfitError for none."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError as error:
        raise UnfitError(f"{shown(folder)}: no such folder ({purpose}); complete the data") from error
    except OSError as error:
        raise UnfitError(f"{shown(folder)}: {reason(error)} ({purpose}); complete the data") from error
    found = {Path(name).stem: folder / name for name in names if name.endswith(suffix) and not name.startswith(".")}
    if not found:
        raise UnfitError(f"{shown(folder)}: holds no {suffix} file ({purpose}); complete the data")
    return found


def map_labels(mask: NDArray[np.integer], num_classes: int) -> tuple[NDArray[np.uint8], Counter[int]]:
    """The official map, 1..K -> 0..K-1 and all else -> 255, and the number of pixels of each value not in 0..K, 255."""
    known = np.full(256, VOID, np.uint8)
    known[1 : num_classes + 1] = np.arange(num_classes, dtype=np.uint8)
    clean = np.zeros(256, bool)
    clean[: num_classes + 1] = clean[VOID] = True
    if mask.dtype == np.uint8:
        label, dirty = known[mask], ~clean[mask]
    else:  # 16- and 32-bit files
        inside = (mask >= 0) & (mask <= VOID)
        index = np.where(inside, mask, VOID).astype(np.uint8)
        label, dirty = known[index], ~(clean[index] & inside)
    if not dirty.any():
        return label, Counter()
    values, counts = np.unique(mask[dirty], return_counts=True)
    return label, Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
