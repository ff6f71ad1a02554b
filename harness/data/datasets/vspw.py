"""VSPW 480p, or any data in its layout: ROOT/{train,val,test}.txt and ROOT/data/VIDEO/{origin/*.jpg,mask/*.png}.

Images may have the suffix of any format in pictures.IMAGES. Frames are in time by their number where their names differ
in one number only, else by name (frame_order).

Labels follow the official map: 0 ("others"), 255 ("void") and whatever else is not a class become 255, the rest moves
down by one. Values that are neither are counted in `Dataset.dirty`. Masks are read as stored: palette files give their
indices, never colours. The test split has no masks.

Source: the README of VSPW's download page and the layout read by its baseline code.
"""

import codecs
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UnfitError, UsageError
from harness.data import frame_order, pictures
from harness.data.contract import VOID, Frame
from harness.data.datasets import _vspw_classes
from harness.data.datasets._listed import Listed
from harness.data.pictures import read_image, read_mask, shown

VERSION = 1

SPLITS = ("train", "val", "test")
UNLABELLED = "test"
CLASS_LIST = "label_num_dic_final.json"
LONGEST = 200  # bytes of a video's name: files are named after it
NO_CLASS = re.compile(
    "others?|void|ignored?|unlabell?ed|unlabel|unknown|undefined|unclassified|unannotated|invalid|dontcare|nothing|none"
)  # names that 0 and 255 may have in a class list, without spaces and signs


@dataclass(frozen=True)
class Config:
    """The folder of the data, and options of its reading; its content follows from split lists and class names."""

    root: str | None = field(default=None, metadata={"where": True, "path": True})
    # a regular expression whose one group names the recording that a video was cut from; None: each video is its own
    recording: str | None = field(default=None, metadata={"where": True})
    # what a number left out between two frames does: "start" begins a video after it; None: they are neighbours
    gap: Literal["start"] | None = None
    # published numbers of videos, for plans made where the data is absent
    expect_train: int = field(default=2806, metadata={"where": True, "range": "[0, inf)"})
    expect_val: int = field(default=343, metadata={"where": True, "range": "[0, inf)"})
    expect_test: int = field(default=387, metadata={"where": True, "range": "[0, inf)"})


class Files(NamedTuple):
    """Files of a frame; the test split has no masks."""

    image: Path
    mask: Path | None


class Dataset(Listed):
    """Videos of a folder in VSPW's layout (harness.data.contract.Dataset).

    Nothing is read before it is asked for. Raises UsageError for a `recording` that is no regular expression with one
    group; every other mistake is an UnfitError of the method that meets it.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, "vspw")
        self.dirty: Counter[int] = Counter()  # pixels by mask value, over the masks read by this object
        self.zeros = 0  # pixels of value 0, likewise
        self._videos: dict[str, tuple[str, ...]] = {}
        self._files: dict[tuple[str, str], dict[str, Files]] = {}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of labels 0..K-1: of the root's own list, else VSPW's 124."""
        if self.config.root is None:
            return _vspw_classes.NAMES
        path = home(self.config.root) / CLASS_LIST
        return read_classes(path) if os.path.lexists(path) else _vspw_classes.NAMES

    def videos(self, split: str) -> tuple[str, ...]:
        """Return the names of the split's videos, in the order of its list."""
        if split not in self._videos:
            if split not in SPLITS:
                raise UsageError(f"no split {split!r}: VSPW has {', '.join(SPLITS)}")
            self._videos[split] = read_split(self._root() / f"{split}.txt")
        return self._videos[split]

    def frames(self, split: str, video: str) -> tuple[str, ...]:
        """Return the stems of the video's images in time; each has a mask, but in the test split."""
        return tuple(self.files(split, video))

    def starts(self, split: str, video: str) -> frozenset[str]:
        """Return the frames that nothing is before: with data.vspw.gap=start those after a gap in the numbering."""
        if self.config.gap is None:
            return frozenset()
        return frozenset(frame_order.after_gaps(self.frames(split, video)))

    def size(self, split: str, video: str, frame: str) -> tuple[int, int]:
        """Return the height and width of a frame's image, by its header."""
        return pictures.size_of(self.files(split, video)[frame].image)

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Return the image (H, W, 3) RGB and label (H, W) in 0..K-1 and 255; the label is None in the test split."""
        files = self.files(split, video)
        if frame not in files:
            folder = self._root() / "data" / video / "origin"
            raise UnfitError(f"{shown(folder)}: has no frame {shown(frame + '.jpg')}")
        image, path = read_image(files[frame].image), files[frame].mask
        if path is None:
            return Frame(image, None)
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            (height, width), (rows, columns) = mask.shape, image.shape[:2]
            raise UnfitError(
                f"{shown(path)}: the mask is {width}×{height}, its image {columns}×{rows}; recreate the pair"
            )
        label, dirty = map_labels(mask, len(self.classes))
        self.dirty.update(dirty)
        self.zeros += mask.size - int(np.count_nonzero(mask))
        return Frame(image, label)

    def split_files(self, split: str) -> Iterator[tuple[str, Path]]:
        """Yield each image and mask of the split: its path below ROOT/data, and where it is."""
        for video in self.videos(split):
            for files in self.files(split, video).values():
                yield f"{video}/origin/{files.image.name}", files.image
                if files.mask is not None:
                    yield f"{video}/mask/{files.mask.name}", files.mask

    def _root(self) -> Path:
        if self.config.root is None:
            raise UnfitError("data.vspw.root is not set: give the folder of VSPW 480p as data.vspw.root=DIR")
        root = home(self.config.root)
        if not os.path.isdir(root):
            raise UnfitError(f"{shown(root)}: no such folder; set data.vspw.root=DIR to VSPW 480p's folder")
        return root

    def files(self, split: str, video: str) -> dict[str, Files]:
        """Return stem -> files of the video's frames in time, images checked once against the masks."""
        if (split, video) not in self._files:
            if video not in self.videos(split):
                raise UnfitError(f"{split}.txt does not list the video {video!r}; add it to the list")
            folder = self._root() / "data" / video
            images = list_files(folder / "origin", pictures.IMAGES, f"listed in {split}.txt")
            masks: dict[str, Path] = {}
            if split != UNLABELLED:
                masks = list_files(folder / "mask", pictures.MASKS, f"the {split} split needs labels")
                check_pairs(images, masks, folder)
            self._files[split, video] = {stem: Files(image, masks.get(stem)) for stem, image in images.items()}
        return self._files[split, video]


def read_split(path: Path) -> tuple[str, ...]:
    """Read video names, one a line; blank lines, CRLF and a missing last newline are fine.

    Raise UnfitError for a file that is missing, empty or no text, for a name listed twice, and for one that is too
    long or no plain folder name.
    """
    try:
        lines = text_of(path).splitlines()
    except FileNotFoundError as error:
        others = [path.parents[1], *holding(path.parent, path.name)] if len(path.parents) > 1 else []
        for other in others:
            if os.path.isfile(other / path.name):
                raise UnfitError(f"{shown(path)}: no such split list; set data.vspw.root={shown(other)}") from error
        raise UnfitError(f"{shown(path)}: no such split list; is data.vspw.root VSPW 480p's folder?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnfitError(f"{shown(path)}: cannot be read: {reason(error)}; download the list again") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UnfitError(f"{shown(path)}: lists no video; write one name per line")
    if len(names[0]) <= LONGEST and (video := video_in(path.parent / "data", names[0])) is not None:
        raise UnfitError(
            f"{shown(path)}: {names[0]!r} is not just a name, as in a numbered list; write one name per line: {video!r}"
        )
    for name, times in Counter(names).items():
        if name in (".", "..") or any(character in name for character in "/\\\0"):
            raise UnfitError(f"{shown(path)}: {name!r} is not a video name; write the name of a folder in data/")
        if len(name.encode()) > LONGEST:
            raise UnfitError(f"{shown(path)}: {name[:20]!r}… is longer than {LONGEST} bytes; rename the video")
        if times > 1:
            raise UnfitError(f"{shown(path)}: lists {name!r} {times} times; keep one")
    return tuple(names)


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the class names of a file {"others": 0, "wall": 1, …} in numeric order; 0 and 255 are no classes.

    Raise UnfitError unless the numbers are 1..K without a gap, K from 2 to 254, each with its own name, and for a 0 or
    255 that has the name of a class.
    """
    try:
        content = json.loads(text_of(path), object_pairs_hook=Pairs)
        if not isinstance(content, Pairs):
            raise TypeError(f"it holds a {type(content).__name__}")
        numbers = [(whole(number), name) for name, number in content]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        problem = f"no mapping of class names to numbers: {reason(error)}"
        raise UnfitError(f"{shown(path)}: {problem}; download it again") from error
    for name, times in Counter(name for _, name in numbers).items():
        if times > 1:
            raise UnfitError(f"{shown(path)}: holds {name!r} {times} times; give each number its own name")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise UnfitError(f"{shown(path)}: {name!r} contains half a character; rewrite the name")
    for number, name in numbers:
        if number in (0, VOID) and not NO_CLASS.fullmatch(re.sub(r"[\W_]", "", name.lower())):
            raise UnfitError(
                f"{shown(path)}: {name!r} has the number {number}, which is ignored; number classes from 1 in list and "
                "masks, or call it 'others' if it is not a class (docs/DATA.md)"
            )
    real = sorted((number, name) for number, name in numbers if number not in (0, VOID))
    if not 0 < len(real) < VOID or [number for number, _ in real] != list(range(1, len(real) + 1)):
        raise UnfitError(f"{shown(path)}: class numbers must be 1..K without gap or repetition, K at most {VOID - 1}")
    if len(real) == 1:
        raise UnfitError(
            f"{shown(path)}: {real[0][1]!r} is the only class, so every mask would be correct; list a second"
        )
    return tuple(name for _, name in real)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with every pair that its text has, also where a name stands twice."""


def whole(number: Any) -> int:
    """Return a class number, also one in quotes. Raise TypeError or ValueError for all but whole numbers."""
    if type(number) not in (int, str):
        raise TypeError(f"{str(number)[:20]!r} is not a whole number")
    return int(number)


def text_of(path: Path) -> str:
    """Return a file's text. Raise OSError, UnicodeDecodeError for what is no UTF-8, and UnfitError for UTF-16."""
    if os.path.lexists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise OSError("it is not a file")
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    if marked or (len(data) > 3 and (not any(data[1:200:2]) or not any(data[0:200:2]))):
        raise UnfitError(f"{shown(path)}: is UTF-16 or UTF-32 text; save it as UTF-8")
    return data.decode("utf-8-sig")


def home(root: str) -> Path:
    """Return a folder as a path; ~ is the home of a person whom the system knows."""
    return Path(os.path.expanduser(root))


def reason(error: Exception) -> str:
    """Return an error's message without the path, in one line."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(message.split()))


def list_files(folder: Path, suffixes: tuple[str, ...], purpose: str) -> dict[str, Path]:
    """Return stem -> file of a folder's pictures, in time. Raise UnfitError for none."""
    try:
        files = pictures.list_pictures(folder, suffixes)
    except FileNotFoundError as error:
        raise UnfitError(f"{shown(folder)}: no such folder ({purpose}); {remedy(folder)}") from error
    except OSError as error:
        raise UnfitError(f"{shown(folder)}: {reason(error)} ({purpose}); complete the data") from error
    if not files:
        raise UnfitError(f"{shown(folder)}: holds no {suffixes[0]} file ({purpose}); complete the data")
    return {stem: files[stem] for stem in frame_order.in_time(files)}


def check_pairs(images: dict[str, Path], masks: dict[str, Path], folder: Path) -> None:
    """Raise UnfitError for an image without mask, and for a mask whose image is there but not read as one."""
    bare = [stem for stem in images if stem not in masks]
    if bare:
        first, add = shown(images[bare[0]]), shown(f"mask/{bare[0]}.png")
        other = same_name(bare[0], masks)
        advice = f"add {add}" if other is None else f"{OTHER_FORM} ({shown(masks[other].name)}): rename it"
        raise UnfitError(f"{first}: has no mask ({len(bare)} such frames); {advice}")
    stray = {stem for stem in masks if stem not in images}
    if stray:
        for name in sorted(os.listdir(folder / "origin")):
            if os.path.splitext(name)[0] in stray and not name.startswith("."):
                what = "has a mask but no supported image suffix"
                raise UnfitError(f"{shown(folder / 'origin' / name)}: {what}; save it as .jpg or .png")


OTHER_FORM = "its name exists in another Unicode form"  # é as one character (NFC) or as two (NFD)


def same_name(name: str, others: Iterable[str]) -> str | None:
    """Return the other name that differs from a name in its Unicode form only."""
    form = unicodedata.normalize("NFC", name)
    return next((other for other in others if other != name and unicodedata.normalize("NFC", other) == form), None)


def remedy(folder: Path) -> str:
    """Return a hint on a missing ROOT/data/VIDEO/{origin,mask}: where it is instead, as far as a look around shows."""
    video, data = folder.parent, folder.parents[1]
    inner = [path / folder.name for path in holding(video, folder.name)]
    inner += [path / video.name / folder.name for path in holding(data, video.name)]
    if inner:
        return f"it is one folder too deep, as {shown(inner[0])}: move it up"
    with suppress(OSError):
        if not os.path.lexists(video) and (other := same_name(video.name, os.listdir(data))) is not None:
            return f"{OTHER_FORM} ({shown(data / other)}): write the list with it, or rename the folder"
    return "complete the data"


def holding(folder: Path, name: str) -> list[Path]:
    """Return the folders right below one that hold a name."""
    try:
        with os.scandir(folder) as entries:
            below = sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [Path(path) for path in below if os.path.lexists(os.path.join(path, name))]


def video_in(data: Path, line: str) -> str | None:
    """Return the video that a line of a list names among other words; None if the line is a name, or has none."""
    words = [re.sub(r"^\d+\s*[.):,;]?\s*", "", line), *re.split(r"[\s,;:()]+", line)]
    if any(character in line for character in "/\\\0") or os.path.lexists(data / line):
        return None
    return next((word for word in words if word not in ("", ".", "..", line) and os.path.isdir(data / word)), None)


def map_labels(mask: NDArray[np.integer], num_classes: int) -> tuple[NDArray[np.uint8], Counter[int]]:
    """Map 1..K -> 0..K-1 and all else -> 255, as officially; also count the pixels of each value not in 0..K, 255."""
    table = np.full(256, VOID, np.uint8)
    table[1 : num_classes + 1] = np.arange(num_classes, dtype=np.uint8)
    index: NDArray[np.integer] = mask
    outside: NDArray[np.bool_] | None = None
    if mask.dtype != np.uint8:  # 16- and 32-bit files hold other numbers too
        outside = (mask < 0) | (mask > VOID)
        index = np.where(outside, VOID, mask).astype(np.uint8)
    mapped = bytearray(index).translate(table.tobytes())  # seven times as fast as table[index]
    label = np.frombuffer(mapped, np.uint8).reshape(mask.shape)
    dirty = index + np.uint8(1) > num_classes + 1  # 255 becomes 0
    if outside is not None:  # `| False` takes as long as all else here
        dirty |= outside
    if not dirty.any():
        return label, Counter()
    values, counts = np.unique(mask[dirty], return_counts=True)
    return label, Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
