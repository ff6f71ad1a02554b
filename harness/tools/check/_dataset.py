"""The contract of a data set (harness.data.contract): videos in order, frames of one form, equal from everywhere.

Shapes: H × W pixels of a frame; a label is 0..K-1, or 255 for void.
"""

import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from harness.common import child
from harness.common.atomic_files import JsonObject
from harness.common.errors import HarnessError, UnfitError
from harness.data.contract import VOID, Dataset, Frame
from harness.data.frame_order import in_time
from harness.tools.check._result import Broken, expect

LABELLED = ("train", "val")
FEW = 3  # videos of a split, and frames of a video, that are read
ASK = """
import json, sys
from harness.config import plugins
name, folders = json.loads(sys.argv[1])
module = plugins.load("datasets", name, folders)
data = module.Dataset(module.Config())
print(json.dumps(["torch" in sys.modules, len(data.classes), [data.planned(split) for split in ("train", "val")]]))
"""


@dataclasses.dataclass(frozen=True)
class Subject:
    """The data set at hand."""

    name: str
    module: ModuleType
    folders: tuple[str, ...]
    config: Any

    def make(self) -> Dataset:
        """Return the data set."""
        dataset: Dataset = self.module.Dataset(self.config)
        return dataset


def checks(
    name: str, path: Path, module: ModuleType, folders: tuple[str, ...], config_fields: JsonObject
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield a data set's checks: a title, and the action that returns figures or raises."""
    del path
    subject = Subject(name, module, folders, module.Config(**config_fields))
    suite: dict[str, Callable[[Subject], str]] = {
        "planning needs neither torch nor data": planning,
        "videos match the plan": videos,
        "frames are in temporal order": frames,
        "images and labels have the right form": form,
        "the test split provides images": test_split,
        "reading is repeatable": repeatable,
        "digests depend on content, not on location": digest,
        "every video has a unit": units,
        "missing data is reported in one line": absent,
        "training can sample from it": stream,
    }
    for what, action in suite.items():
        yield what, partial(action, subject)


def planning(subject: Subject) -> str:
    """With its defaults it is imported without torch and says its classes and numbers of videos."""
    words = child.python("-c", ASK, json.dumps([subject.name, subject.folders]))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"with its defaults: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    torch, classes, counts = json.loads(done.stdout.splitlines()[-1])
    expect(not torch, "expected the file to import without torch; import it where it is used, or not at all")
    expect(2 <= classes < VOID, f"expected 2 to 254 classes, got {classes}")
    expect(all(count > 0 for count in counts), f"expected `planned` to be positive for train and val, got {counts}")
    return f"{classes} classes, {counts[0]} + {counts[1]} videos planned with its defaults"


def videos(subject: Subject) -> str:
    """Each labelled split is a tuple of different names, as many as `planned` says."""
    data = subject.make()
    classes = data.classes
    named = isinstance(classes, tuple) and all(isinstance(name, str) for name in classes)
    expect(named and len(set(classes)) == len(classes), "expected classes to be a tuple of unique names")
    counts = []
    for split in LABELLED:
        names = data.videos(split)
        expect(isinstance(names, tuple), f"expected a tuple of {split} videos, got a {type(names).__name__}")
        expect(len(set(names)) == len(names), f"expected unique names in {split}, some occur twice")
        expect(names, f"expected videos in {split}, found none")
        planned = data.planned(split)
        expect(planned == len(names), f"{split} has {len(names)} videos, but `planned` returns {planned}")
        expect(names == data.videos(split), f"{split}: two calls of `videos` returned different orders")
        counts.append(f"{len(names)} {split}")
    return f"{len(classes)} classes, {', '.join(counts)} videos"


def natural(name: str) -> list[Any]:
    """Return a name's parts with its numbers as numbers, so that 10 follows 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]


def frames(subject: Subject) -> str:
    """A video's frames are different names in the order of their numbers."""
    data = subject.make()
    lengths = []
    for split in LABELLED:
        for video in data.videos(split):
            names = data.frames(split, video)
            expect(isinstance(names, tuple) and names, f"{video}: expected a tuple of frames, got {names!r:.80}")
            expect(len(set(names)) == len(names), f"{video}: a frame occurs twice")
            by_number = tuple(sorted(names, key=natural))
            wanted = names if names == tuple(in_time(names)) else by_number
            first = next((pair for pair in zip(names, wanted, strict=True) if pair[0] != pair[1]), None)
            expect(
                first is None,
                f"{video}: expected frames by number, {first and first[0]} is where {first and first[1]} should",
            )
            lengths.append(len(names))
    return f"{len(lengths)} videos of {min(lengths)} to {max(lengths)} frames"


def some(data: Dataset, split: str) -> Iterator[tuple[str, str]]:
    """Yield a few videos and frames of a split: the first ones and each video's last."""
    for video in data.videos(split)[:FEW]:
        names = data.frames(split, video)
        yield from ((video, name) for name in dict.fromkeys((*names[: FEW - 1], names[-1])))


def form(subject: Subject) -> str:
    """Images are (H, W, 3) uint8, labels (H, W) uint8 of 0..K-1 and 255, one size a video."""
    data = subject.make()
    sizes: dict[str, set[tuple[int, ...]]] = {}
    values: set[int] = set()
    for split in LABELLED:
        for video, name in some(data, split):
            frame = data.read(split, video, name)
            sizes.setdefault(video, set()).add(_form(frame, f"{video}/{name}", len(data.classes)))
            assert frame.label is not None
            values |= set(np.unique(frame.label).tolist())
    mixed = [video for video, distinct in sizes.items() if len(distinct) > 1]
    expect(not mixed, f"{', '.join(mixed)}: expected frames of one size, got {sizes[mixed[0]] if mixed else ''}")
    shown = sorted({size for distinct in sizes.values() for size in distinct})
    labelled = sorted(values - {VOID})
    expect(labelled, "expected labelled pixels, but all are void")
    return (
        f"{', '.join(f'{height} × {width}' for height, width in shown[:3])}; {len(labelled)} classes in what was read"
    )


def _form(frame: Any, where: str, num_classes: int) -> tuple[int, ...]:
    """Return the size of a labelled frame of the right form. Raise Broken for another."""
    expect(isinstance(frame, Frame), f"{where}: expected harness.data.contract.Frame, got {type(frame).__name__}")
    image, label = frame
    expect(label is not None, f"{where}: expected a label")
    for what, value in (("image", image), ("label", label)):
        expect(isinstance(value, np.ndarray) and value.dtype == np.uint8, f"{where}: expected the {what} in uint8")
    expect(image.ndim == 3 and image.shape[2] == 3, f"{where}: expected an image (H, W, 3), got {image.shape}")
    expect(label.shape == image.shape[:2], f"{where}: image {image.shape}, but label {label.shape}")
    wrong = sorted({int(value) for value in np.unique(label) if value >= num_classes and value != VOID})
    expect(not wrong, f"{where}: expected labels in 0..{num_classes - 1} or 255, got {wrong[:5]}")
    return tuple(label.shape)


def test_split(subject: Subject) -> str:
    """A frame of the test split, which may be left out, has an image; its label may be None."""
    data = subject.make()
    try:
        names = data.videos("test")
    except UnfitError as error:
        return f"no test split: {error}"
    if not names:
        return "no test videos"
    first = data.frames("test", names[0])[0]
    image, label = data.read("test", names[0], first)
    expect(image.dtype == np.uint8 and image.ndim == 3, f"{names[0]}/{first}: got {image.dtype} {image.shape}")
    expect(label is None or label.shape == image.shape[:2], f"{names[0]}/{first}: label and image differ in size")
    return f"{len(names)} videos, {'without' if label is None else 'with'} labels"


def repeatable(subject: Subject) -> str:
    """Another object reads the same frames in another order."""
    data = subject.make()
    wanted = list(some(data, "train"))
    again = subject.make()
    before = [data.read("train", *frame) for frame in wanted]
    after = [again.read("train", *frame) for frame in reversed(wanted)][::-1]
    for (video, name), frame, other in zip(wanted, before, after, strict=True):
        same = np.array_equal(frame.image, other.image) and np.array_equal(frame.label, other.label)  # type: ignore[arg-type]
        expect(same, f"{video}/{name}: reading again in another order gave a different image or label")
    return f"{len(wanted)} frames equal, backwards and from another object"


def digest(subject: Subject) -> str:
    """The digest is the same for the same data at another path: its folders seen through links."""
    original = subject.make()
    digests = {split: original.digest(split) for split in LABELLED}
    odd = [value for value in digests.values() if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value)]
    expect(not odd, f"expected None or a sha256 in hex, got {odd[:1]}")
    places = [field.name for field in dataclasses.fields(subject.config) if field.metadata.get("where")]
    with TemporaryDirectory() as root:
        moved = {}
        for name in places:
            value = getattr(subject.config, name)
            if isinstance(value, str) and Path(value).exists():
                moved[name] = str(Path(root) / name)
                Path(moved[name]).symlink_to(Path(value).resolve())
        linked: Dataset = subject.module.Dataset(dataclasses.replace(subject.config, **moved))
        for split, value in digests.items():
            expect(linked.digest(split) == value, f"{split}: the same data at another path has a different digest")
    shown = ", ".join(
        f"{split} {value[:8] if value else 'None (generated, not read)'}" for split, value in digests.items()
    )
    listed = file_lists(original) if any(digests.values()) else ""
    return f"{shown}; {'moved ' + ', '.join(moved) if moved else 'no path to change'}{listed}"


def file_lists(data: Dataset) -> str:
    """Return in words how the labelled splits list their files. Raise Broken for a list that is wrong."""
    files: Callable[[str], Iterable[tuple[str, Path]]] | None = getattr(data, "split_files", None)
    if files is None:
        return "; changes to images and masks go unnoticed without `split_files` (harness/data/contract.py)"
    counts = []
    for split in LABELLED:
        pairs = list(files(split))
        frames = sum(len(data.frames(split, video)) for video in data.videos(split))
        expect(len({name for name, _ in pairs}) == len(pairs), f"{split}: expected a unique name for each file")
        expect(bool(pairs), f"{split}: expected `split_files` to list what is read, got nothing")
        missing = [path for _, path in pairs if not Path(path).is_file()]
        expect(not missing, f"{split}: `split_files` lists {missing[:1]}, which is not a file")
        counts.append(f"{len(pairs)} files of {frames} {split} frames")
    return f"; by content: {', '.join(counts)}"


def units(subject: Subject) -> str:
    """Each video belongs to a unit of an interval."""
    data = subject.make()
    counts = []
    for split in LABELLED:
        units_of_split = [data.unit(video) for video in data.videos(split)]
        expect(
            all(isinstance(unit, str) and unit for unit in units_of_split),
            f"{split}: expected a unit's name for every video",
        )
        counts.append(f"{len(set(units_of_split))} of {len(units_of_split)} {split} videos")
    return f"units: {', '.join(counts)}"


def absent(subject: Subject) -> str:
    """A split, video or frame that is not there is a HarnessError of one line."""
    data = subject.make()
    video = data.videos("val")[0]
    requests: dict[str, Callable[[], object]] = {
        "a split": lambda: data.videos("no such split"),
        "a video": lambda: data.frames("val", "no such video"),
        "a frame": lambda: data.read("val", video, "no such frame"),
    }
    for what, action in requests.items():
        try:
            action()
        except HarnessError as error:
            expect("\n" not in str(error), f"missing {what}: expected one line, got {str(error)!r:.100}")
            continue
        raise Broken(f"missing {what}: expected UnfitError or UsageError, nothing was raised")
    return "split, video and frame"


def stream(subject: Subject) -> str:
    """Training samples with the frame before: the same from this process and from a worker."""
    from harness.data.stream import TrainStream, loader

    samples = TrainStream(subject.make(), offsets=(-1, 0), crop=32, short_side=32, seed=0)
    wanted = [[0, 1], [2, 3]]
    for batch, again in zip(loader(samples, wanted, 0), loader(samples, wanted, 1), strict=True):
        same = batch.frames.equal(again.frames) and batch.labels.equal(again.labels) and batch.names == again.names
        expect(same, f"{', '.join(batch.names)}: a worker drew a different sample than this process")
    return "4 samples of 2 frames, equal with and without a worker"
