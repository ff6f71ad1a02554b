"""Relations of videos, frames and splits: order in time, one size a video, and splits that share nothing."""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.common.errors import HarnessError
from harness.data import frame_order
from harness.data.contract import Dataset
from harness.tools.doctor._finding import Finding, count, some

PART = "data"
HEADERS = 20_000  # frames of a split up to which the size of each is read from its file; of more, PICKS a video
PICKS = 3  # first, middle, last

Frames = Mapping[str, Sequence[str]]  # video -> frames in time
Size = tuple[int, int]  # width, height


def picks(names: Sequence[str]) -> list[str]:
    """The first, the middle and the last of a video's frames, each once."""
    return list(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))


def order(split: str, frames: Frames, gap: str | None) -> Iterator[Finding]:
    """Which order of frames is used, and where numbers are left out."""
    named = [video for video, names in frames.items() if len(names) > 1 and frame_order.numbers(names) is None]
    if len(named) < len(frames):
        rest = f", by name in {count(len(named), 'video')} ({some(named)})" if named else ""
        yield Finding(PART, True, f"{split}: frames are ordered by number{rest}")
    else:
        text = f"{split}: frames are ordered by name: {some(named)} differ in more than one number"
        yield Finding(PART, None, text, "number frames from 0, or with leading zeros, if that is not their time")
    gaps = {video: after for video, names in frames.items() if (after := frame_order.after_gaps(names))}
    if gaps:
        where = some(f"{video} (before {some(after)})" for video, after in gaps.items())
        text = f"{split}: numbers are left out within {count(len(gaps), 'video')}: {where}; "
        if gap is None:
            text += "there frame N-1 is further back in time than elsewhere"
            yield Finding(PART, None, text, "data.vspw.gap=start begins a video after each gap")
        else:
            yield Finding(PART, None, text + "a video begins after each gap (data.vspw.gap=start)")


def sizes(split: str, dataset: Any, frames: Frames, known: Mapping[str, set[Size]]) -> Iterator[Finding]:
    """Videos with frames of more than one size, by the frames that were read and by the headers of files."""
    found = {video: set(known.get(video, ())) for video in frames}
    if hasattr(dataset, "size"):
        every = sum(map(len, frames.values())) <= HEADERS

        def of(video: str) -> set[Size]:
            names = frames[video]
            return {
                size for name in (names if every else picks(names)) if (size := size_of(dataset, split, video, name))
            }

        with ThreadPoolExecutor(4) as pool:
            for video, more in zip(frames, pool.map(of, frames), strict=True):
                found[video] |= more
    mixed = {video: shapes for video, shapes in found.items() if len(shapes) > 1}
    if mixed:
        shown = some(f"{video} ({some(f'{w}×{h}' for w, h in sorted(shapes))})" for video, shapes in mixed.items())
        text = f"{split}: frames of more than one size within {count(len(mixed), 'video')}: {shown}"
        remedy = "give a video's frames one size, or make each part a video of its own: clips need frames of one size"
        yield Finding(PART, False, text, remedy)


def size_of(dataset: Any, split: str, video: str, name: str) -> Size | None:
    """A frame's width and height; None where its file does not say, which reading it tells."""
    try:
        height, width = dataset.size(split, video, name)
    except HarnessError:
        return None
    return width, height


def across(
    dataset: Dataset, splits: Mapping[str, Frames], images: Mapping[str, Mapping[str, set[bytes]]]
) -> Iterator[Finding]:
    """Videos in two splits, recordings cut for both training and validation, and equal content under two names.

    `images` holds digests of the images that were read, by split and video.
    """
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if one not in splits or other not in splits:
            continue
        names = {unicodedata.normalize("NFC", video) for video in splits[one]}
        both = [video for video in splits[other] if unicodedata.normalize("NFC", video) in names]
        fit = False if other == "val" else None
        if both:
            text = f"{count(len(both), 'video')} in both {one} and {other}: {some(both)}"
            yield Finding(PART, fit, text, f"take them off {one}.txt or {other}.txt; a number on {other} is not fair")
        yield from copies(dataset, (one, other), {split: splits[split] for split in (one, other)}, images, both)
    try:
        units = {split: {dataset.unit(video) for video in splits.get(split, ())} for split in ("train", "val")}
    except Exception:  # of a person's own data set; `harness check` tells what it owes
        return
    shared = sorted((units["train"] & units["val"]) - set(splits.get("val", ())))
    if shared:
        text = f"{count(len(shared), 'recording')} with videos in both train and val: {some(shared)}"
        yield Finding(PART, None, text, "videos of one recording are alike; split by recording for a fair number")


def copies(
    dataset: Any, pair: tuple[str, str], splits: Mapping[str, Frames], images: Any, named: Sequence[str]
) -> Iterator[Finding]:
    """Videos of the second split that are the first's under another name, by the bytes of files and by pixels."""
    one, other = pair
    equal: dict[str, str] = {}
    if hasattr(dataset, "files"):
        known = {signature(dataset, one, video, picks(names)): video for video, names in splits[one].items()}
        for video, names in splits[other].items():
            twin = known.get(signature(dataset, other, video, picks(names)) or b"")
            if twin and signature(dataset, other, video, names) == signature(dataset, one, twin, splits[one][twin]):
                equal[video] = twin
    owners = {image: video for video, seen in images.get(one, {}).items() for image in seen}
    partly: dict[str, str] = {}
    for video, seen in images.get(other, {}).items():
        among = [owners[image] for image in seen if image in owners]
        if among:
            (equal if len(among) == len(seen) else partly).setdefault(video, among[0])
    for which, what in ((equal, "with the images of one of"), (partly, "with some images of one of")):
        pairs = [f"{video} = {first}" for video, first in which.items() if video not in (*named, first)]
        if pairs:
            text = f"{count(len(pairs), 'video')} of {other} {what} {one}: {some(pairs)}"
            fit = False if which is equal and other == "val" else None
            yield Finding(PART, fit, text, f"take them off {one}.txt or {other}.txt; a number on {other} is not fair")


def signature(dataset: Any, split: str, video: str, names: Sequence[str]) -> bytes | None:
    """A digest of the files of some of a video's images; None where one cannot be read."""
    found = hashlib.sha256()
    try:
        files = dataset.files(split, video)
        for name in names:
            path: Path = files[name].image
            found.update(hashlib.sha256(path.read_bytes()).digest())
    except (OSError, HarnessError):
        return None
    return found.digest()
