"""VSPW 480p, or any data in its layout: ROOT/{train,val,test}.txt and ROOT/data/VIDEO/{origin/*.jpg,mask/*.png}.

Labels follow the official map: 0 ("others"), 255 ("void") and whatever else is not a class become 255, the rest moves
down by one. Values that are neither are counted in `Dataset.dirty`. Masks are read as stored: palette files give their
indices, never colours. The test split has no masks.

Source: the README of VSPW's download page and the layout read by its baseline code.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.core.data import VOID, Frame
from harness.core.errors import UnfitError, UsageError
from harness.datasets import _vspw_classes

VERSION = 1

SPLITS = ("train", "val", "test")
UNLABELLED = "test"
CLASS_LIST = "label_num_dic_final.json"


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
    """Videos of a folder in VSPW's layout (harness.core.data.Dataset).

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
        path = Path(self.config.root).expanduser() / CLASS_LIST
        return read_classes(path) if path.is_file() else _vspw_classes.NAMES

    def videos(self, split: str) -> tuple[str, ...]:
        """Names of the split's videos, in the order of its list."""
        if split not in self._videos:
            if split not in SPLITS:
                raise UsageError(f"no split '{split}': VSPW has {', '.join(SPLITS)}")
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
            raise UnfitError(f"{folder / 'origin'}: has no frame {frame}.jpg")
        image = read_image(images[frame])
        if split == UNLABELLED:
            return Frame(image, None)
        path = folder / "mask" / f"{frame}.png"
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            (height, width), (rows, columns) = mask.shape, image.shape[:2]
            raise UnfitError(f"{path}: the mask is {width}×{height}, its image {columns}×{rows}; make the pair anew")
        label, dirty = map_labels(mask, len(self.classes))
        self.dirty.update(dirty)
        return Frame(image, label)

    def digest(self, split: str) -> str | None:
        """sha256 of the split's list, in its order, and the class names; the same wherever the data lies."""
        content = json.dumps([self.videos(split), self.classes])
        return hashlib.sha256(content.encode()).hexdigest()

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
        root = Path(self.config.root).expanduser()
        if not root.is_dir():
            raise UnfitError(f"{root}: no such folder; set data.vspw.root=DIR to VSPW 480p's folder")
        return root

    def _images(self, split: str, video: str) -> dict[str, Path]:
        """Stem -> image, checked once against the masks."""
        if (split, video) not in self._frames:
            if video not in self.videos(split):
                raise UnfitError(f"{split}.txt does not list the video '{video}'")
            folder = self._root() / "data" / video
            images = list_files(folder / "origin", ".jpg", f"listed in {split}.txt")
            if split != UNLABELLED:
                masks = list_files(folder / "mask", ".png", f"the {split} split needs labels")
                bare = [stem for stem in images if stem not in masks]
                if bare:
                    raise UnfitError(
                        f"{images[bare[0]]}: has no mask ({len(bare)} such frames); add mask/{bare[0]}.png"
                    )
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

    Raises UnfitError for a file that is missing, empty or no text, for a name listed twice, and for one that is no
    plain folder name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UnfitError(f"{path}: no such split list; is data.vspw.root VSPW 480p's folder?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnfitError(f"{path}: cannot be read: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UnfitError(f"{path}: lists no video; write one name a line")
    for name, times in Counter(names).items():
        if name in (".", "..") or any(character in name for character in "/\\\0"):
            raise UnfitError(f"{path}: {name!r} is no video name; write the name of a folder in data/")
        if times > 1:
            raise UnfitError(f"{path}: lists '{name}' {times} times; keep one")
    return tuple(names)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a file {"others": 0, "wall": 1, …} in numeric order; 0 and 255 are no classes.

    Raises UnfitError unless the numbers are 1..K without a gap, K at most 254 (255 is void).
    """
    try:
        numbers = {str(name): int(number) for name, number in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnfitError(f"{path}: no mapping of class names to numbers: {error}") from error
    names = {number: name for name, number in numbers.items() if number not in (0, VOID)}
    real = sum(number not in (0, VOID) for number in numbers.values())
    if not 0 < real < VOID or sorted(names) != list(range(1, real + 1)):
        raise UnfitError(f"{path}: class numbers must be 1..K without gap or repetition, K at most {VOID - 1}")
    return tuple(names[number] for number in sorted(names))


def list_files(folder: Path, suffix: str, reason: str) -> dict[str, Path]:
    """Stem -> file of a folder's files with a suffix, sorted; hidden ones are skipped. Raises UnfitError for none."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UnfitError(f"{folder}: no such folder ({reason}); complete the data") from error
    found = {Path(name).stem: folder / name for name in names if name.endswith(suffix) and not name.startswith(".")}
    if not found:
        raise UnfitError(f"{folder}: holds no {suffix} file ({reason}); complete the data")
    return found


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image of any mode as RGB.  # (H, W, 3)   Raises UnfitError for a file that is empty or cut off."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnfitError(unreadable(path, error)) from error


def read_mask(path: Path) -> NDArray[np.integer]:
    """A mask's stored values.  # (H, W)   Raises UnfitError for a file that is empty, cut off or a colour picture."""
    try:
        with Image.open(path) as image:
            mask = np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UnfitError(unreadable(path, error)) from error
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise UnfitError(f"{path}: a mask has one whole number a pixel, this has {mask.shape[2:] or mask.dtype}")
    return mask.astype(np.uint8) if mask.dtype.kind == "b" else mask


def unreadable(path: Path, error: Exception) -> str:
    """One line on a file that does not decode."""
    if not path.exists():
        return f"{path}: no such file; complete the data"
    if path.stat().st_size == 0:
        return f"{path}: 0 bytes; fetch it again, or take its video off the list"
    return f"{path}: damaged ({' '.join(str(error).split())}); fetch it again, or take its video off the list"


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
