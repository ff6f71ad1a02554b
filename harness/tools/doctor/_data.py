"""The data set of the configuration: lists, videos, frames, labels. For any data set; _vspw adds what files show."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from harness.common.errors import HarnessError, UnfitError
from harness.config import input_digests
from harness.config.compose import Config
from harness.data import contract
from harness.data.contract import WIDE_VOID, Dataset, Frame, void
from harness.tools.doctor import _relations, _vspw
from harness.tools.doctor._finding import Finding, count, reason, some, unfit

log = logging.getLogger(__name__)

PART = "data"
SPLITS = ("train", "val", "test")
UNLABELLED = "test"
SAMPLE = 24  # frames of a split that are decoded, spread over its videos
CHUNK = 64  # frames read by one thread before it reports
MOST_DIRTY = 0.05  # share of pixels from which values that are no class mean a wrong class list
REMEDY = "docs/DATA.md describes the layout"

Pair = tuple[str, str]  # video, frame


@dataclass
class Sample:
    """Statistics of the frames that were read."""

    frames: int = 0
    given: int = 0  # frames with a label, be it void
    pixels: int = 0
    void: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height)
    classes: set[int] = field(default_factory=set)
    dirty: Counter[int] = field(default_factory=Counter)  # pixels by stored value that is no class
    zeros: int = 0  # pixels of stored value 0
    shapes: defaultdict[str, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))  # by video
    images: defaultdict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))  # digests, by video
    labelled: Counter[str] = field(default_factory=Counter)  # frames with a labelled pixel, by video
    broken: list[str] = field(default_factory=list)

    def add(self, other: "Sample") -> None:
        """Add another sample's statistics."""
        self.frames += other.frames
        self.given += other.given
        self.pixels += other.pixels
        self.void += other.void
        self.sizes.update(other.sizes)
        self.classes |= other.classes
        self.dirty.update(other.dirty)
        self.zeros += other.zeros
        self.labelled.update(other.labelled)
        for video, shapes in other.shapes.items():
            self.shapes[video] |= shapes
        for video, images in other.images.items():
            self.images[video] |= images
        self.broken += other.broken


def examine(config: Config, thorough: bool) -> Iterator[Finding]:
    """Yield findings of every split; trouble with the test split, which no table needs, is a note."""
    name = config["data"]["name"]
    try:
        dataset = input_digests.build_dataset(config)
        classes = dataset.classes
    except HarnessError as error:
        yield unfit(PART, error, f"correct data.{name}; {REMEDY}")
        return
    twice = [class_name for class_name, times in Counter(classes).items() if times > 1]
    if twice or not 1 < len(classes) <= WIDE_VOID:
        text = f"{len(classes)} classes, duplicate names: {some(twice) or 'none'}"
        yield Finding(PART, False, text, f"list 2 to {WIDE_VOID} classes, each with a unique name")
    yield Finding(PART, True, f"{name}: {len(classes)} classes: {some(classes)}")
    if name == "vspw":
        yield from _vspw.class_list(dataset)
    reported: set[str] = set()
    splits: dict[str, _relations.Frames] = {}
    images: dict[str, dict[str, set[bytes]]] = {}
    for split in SPLITS:
        for finding in examine_split(config, dataset, split, thorough, splits, images):
            if split == UNLABELLED and finding.fit is False:
                finding = Finding(PART, None, f"{finding.text} (no table needs the test split)", finding.remedy)
            text = finding.text.removesuffix(" (no table needs the test split)")
            if text not in reported:  # a root that is not there is missed by every split
                reported.add(text)
                yield finding
    yield from _relations.across(dataset, splits, images)


def examine_split(
    config: Config,
    dataset: Dataset,
    split: str,
    thorough: bool,
    splits: dict[str, _relations.Frames],
    images: dict[str, dict[str, set[bytes]]],
) -> Iterator[Finding]:
    """Check the list, each video's frames, the files, and a sample of frames or all of them.

    Adds the split's frames to `splits` and digests of the images that were read to `images`.
    """
    try:
        videos = dataset.videos(split)
    except HarnessError as error:
        yield unfit(PART, error, REMEDY)
        return
    frames, broken = list_frames(dataset, split, videos)
    lengths = [len(names) for names in frames.values()]
    text = f"{split}: {count(len(videos), 'video')}, {count(sum(lengths), 'frame')}"
    spans = f"{min(lengths)} to {max(lengths)}" if len(set(lengths)) > 1 else str(*set(lengths))
    yield Finding(PART, True, text + (f" ({spans} a video)" if lengths else ""))
    if broken:
        first = unfit(PART, UnfitError(next(iter(broken.values()))), REMEDY)
        text = f"{split}: {len(broken)} of {count(len(videos), 'video')} cannot be used ({some(broken)}): {first.text}"
        yield Finding(PART, False, text, first.remedy)
    if config["data"]["name"] == "vspw":
        yield from _vspw.expected(dataset, split, len(videos), sum(lengths))
        yield from _vspw.files(dataset, split, videos)
    if hasattr(getattr(dataset, "config", None), "gap"):
        key = f"data.{config['data']['name']}.gap"
        yield from _relations.order(split, frames, dataset.config.gap, key)  # type: ignore[attr-defined]
    if getattr(dataset, "labelled", None) is not None:
        yield from sparse(dataset, split, frames)
    if unpaired := getattr(dataset, "unpaired", {}).get(split):
        text = f"{split}: {count(len(unpaired), 'mask')} without image, not used: {some(unpaired)}"
        yield Finding(PART, None, text)
    pairs = [(video, frame) for video, names in frames.items() for frame in names]
    if pairs:
        wanted = pairs if thorough else chosen(dataset, split, frames)
        stats = sample(config, split, wanted)
        yield from judge(split, stats, len(dataset.classes), thorough)
        yield from judge_labels(split, stats, dataset.classes, thorough, len(wanted) == len(pairs))
        yield from _relations.sizes(split, dataset, frames, stats.shapes)
        images[split] = stats.images
    splits[split] = frames


def list_frames(
    dataset: Dataset, split: str, videos: Sequence[str]
) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, str]]:
    """Return the frames by video, and by video why it has none."""
    frames: dict[str, tuple[str, ...]] = {}
    broken: dict[str, str] = {}
    for video in videos:
        try:
            frames[video] = dataset.frames(split, video)
        except Exception as error:  # a person's own data set has its own errors
            broken[video] = reason(error)
    return frames, broken


def sparse(dataset: Dataset, split: str, frames: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Yield how many frames are labelled, of a data set whose frames need not be, and the videos without any."""
    labelled = {video: len(contract.labelled(dataset, split, video)) for video in frames}
    total = sum(labelled.values())
    text = f"{split}: {total} of {count(sum(map(len, frames.values())), 'frame')} labelled"
    if not total:
        yield Finding(PART, None if split == UNLABELLED else False, text, REMEDY)
        return
    yield Finding(PART, True, text)
    bare = [video for video, number in labelled.items() if not number]
    if bare:
        text = f"{split}: no frame is labelled in {count(len(bare), 'video')}, left out everywhere: {some(bare)}"
        yield Finding(PART, None, text)


def chosen(dataset: Dataset, split: str, frames: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Return the frames of a sample: SAMPLE of the labelled ones, and a quarter as many others."""
    labelled = {video: set(contract.labelled(dataset, split, video)) for video in frames}
    pairs = [(video, frame) for video, names in frames.items() for frame in names if frame in labelled[video]]
    others = [(video, frame) for video, names in frames.items() for frame in names if frame not in labelled[video]]
    return (spread(pairs, SAMPLE) if pairs else []) + (spread(others, SAMPLE // 4) if others else [])


def spread(pairs: Sequence[Pair], number: int) -> list[Pair]:
    """Return up to `number` frames at equal distances, the first and the last among them."""
    chosen = np.linspace(0, len(pairs) - 1, min(number, len(pairs))).round().astype(int)
    return [pairs[index] for index in dict.fromkeys(chosen.tolist())]


def sample(config: Config, split: str, pairs: Sequence[Pair]) -> Sample:
    """Decode frames, in threads where they are many, logging how far it is."""
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    total = Sample()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1, len(chunks))) as pool:
        for part in pool.map(lambda chunk: read(config, split, chunk), chunks):
            total.add(part)
            if len(chunks) > 1:
                log.info(f"{split}: {total.frames + len(total.broken)} of {len(pairs)} frames read")
    return total


def read(config: Config, split: str, pairs: Sequence[Pair]) -> Sample:
    """Decode frames one by one, by a data set of its own, whose count of dirty values is then theirs alone."""
    dataset, stats = input_digests.build_dataset(config), Sample()
    for video, frame in pairs:
        try:
            frame_data = dataset.read(split, video, frame)
        except Exception as error:
            stats.broken.append(reason(error))
            continue
        labelled = split != UNLABELLED and frame in contract.labelled(dataset, split, video)
        problem = check(frame_data, len(dataset.classes), labelled)
        if problem:
            stats.broken.append(f"{split} {video} {frame}: {problem}; {REMEDY}")
            continue
        stats.frames += 1
        size = frame_data.image.shape[1], frame_data.image.shape[0]
        stats.sizes[size] += 1
        stats.shapes[video].add(size)
        if frame_data.image.min() < frame_data.image.max():  # black frames are alike everywhere
            stats.images[video].add(hashlib.sha256(frame_data.image.tobytes()).digest())
        if frame_data.label is not None:
            values, times = np.unique(frame_data.label, return_counts=True)
            pixels = dict(zip(values.tolist(), times.tolist(), strict=True))
            stats.given += 1
            stats.void += pixels.pop(void(len(dataset.classes)), 0)
            stats.pixels += frame_data.label.size
            stats.classes |= set(pixels)
            stats.labelled[video] += bool(pixels)
    stats.dirty.update(getattr(dataset, "dirty", {}))
    stats.zeros += getattr(dataset, "zeros", 0)
    return stats


def check(frame: Frame, classes: int, labelled: bool) -> str:
    """Return what a frame breaks of the dataset contract; empty for nothing."""
    image, label = frame
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        return f"the image is {image.dtype} {image.shape}, not uint8 (H, W, 3)"
    if label is None:
        return "has no label" if labelled else ""
    if label.shape != image.shape[:2] or label.dtype != contract.label_type(classes):
        return f"the label is {label.dtype} {label.shape}, the image {image.shape[:2]}"
    highest = int(label[label != void(classes)].max(initial=0))
    return f"label {highest} of {classes} classes" if highest >= classes else ""


def judge(split: str, stats: Sample, classes: int, thorough: bool) -> Iterator[Finding]:
    """Yield findings of the frames that were read."""
    which = frames_read(stats, thorough)
    if stats.broken:
        first = unfit(PART, UnfitError(stats.broken[0]), REMEDY)
        text = f"{split}: {len(stats.broken)} of {which} cannot be read: {first.text}"
        yield Finding(PART, False, text, first.remedy)
    if not stats.frames:
        return
    sizes = [f"{width}×{height} ({times})" for (width, height), times in stats.sizes.most_common()]
    text = f"{split}: {which} read: {some(sizes)}"
    if stats.pixels:
        text += f"; {len(stats.classes)} of {classes} classes seen, {stats.void / stats.pixels:.1%} of pixels void"
    if stats.pixels and not stats.classes:
        yield Finding(PART, False, text, f"masks must hold class numbers 1 to {classes}; {REMEDY}")
        return
    yield Finding(PART, True, text)
    if stats.dirty:
        share = sum(stats.dirty.values()) / stats.pixels
        values = some(f"{value} ({pixels} pixels)" for value, pixels in stats.dirty.most_common())
        text = f"{split}: mask values that are not a class, in {which}: {values}, {share:.2%} of pixels; they are void"
        much = share > MOST_DIRTY
        yield Finding(PART, False if much else None, text, "correct the class list or the masks" if much else "")


def frames_read(result: Sample, thorough: bool) -> str:
    """Return words for the frames that were read."""
    return "every frame" if thorough else f"a sample of {result.frames + len(result.broken)} frames"


def judge_labels(split: str, result: Sample, names: Sequence[str], thorough: bool, every: bool) -> Iterator[Finding]:
    """Yield notes on classes that do not occur and on frames without labels; `every` frame was read, or some."""
    if not result.classes:
        return
    which = frames_read(result, thorough)
    absent = [name for index, name in enumerate(names) if index not in result.classes]
    last = len(names) - 1
    if result.zeros and last not in result.classes and (every or len(absent) == 1):
        text = f"{split}: the last class {names[last]!r} ({last + 1}) never occurs in {which}, and 0 does"
        yield Finding(PART, None, text, f"if your masks count classes from 0, add 1 to each; {REMEDY}")
    elif absent and every:
        text = f"{split}: {count(len(absent), 'class').replace('classs', 'classes')} never occur: {some(absent)}"
        yield Finding(PART, None, text)
    if len(result.classes) == 1:
        (only,) = result.classes
        text = f"{split}: {names[only]!r} is the only class in {which}, so always predicting it is correct"
        yield Finding(PART, None, text, "check that the masks hold the class numbers of the list")
    bare = [video for video, times in result.labelled.items() if not times]
    if bare:
        text = f"{split}: no labelled pixel in {count(len(bare), 'video')}, by {which}: {some(bare)}"
        yield Finding(PART, None, text, f"remove them from {split}.txt, or label them")
    labelled = result.labelled.total()
    if labelled < result.given / 2:
        text = f"{split}: {labelled} of {count(result.given, 'frame')} read have a labelled pixel"
        yield Finding(PART, None, text, "remove frames without labels: training learns nothing from them")
