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
    """Return the first, the middle and the last of a video's frames, each once."""
    return list(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))


def order(split: str, frames: Frames, gap: str | None) -> Iterator[Finding]:
    """Yield which order of frames is used, and where numbers are left out."""
    if not frames:
        return
    named = [video for video, names in frames.items() if len(names) > 1 and frame_order.numbers(names) is None]
    if len(named) < len(frames):
        rest = f", by name in {count(len(named), 'video')} ({some(named)})" if named else ""
        yield Finding(PART, True, f"{split}: frames are ordered by number{rest}")
    else:
        text = f"{split}: frames are ordered by name: the names in {some(named)} differ in more than one number"
        yield Finding(
            PART, None, text, "if that is not their temporal order, number frames from 0 or with leading zeros"
        )
    gaps = {video: after for video, names in frames.items() if (after := frame_order.after_gaps(names))}
    if gaps:
        where = some(f"{video} (before {some(after)})" for video, after in gaps.items())
        text = f"{split}: frame numbers are missing within {count(len(gaps), 'video')}: {where}; "
        if gap is None:
            text += "there frame N-1 is further back in time than elsewhere"
            yield Finding(PART, None, text, "data.vspw.gap=start starts a new video after each gap")
        else:
            yield Finding(PART, None, text + "a new video starts after each gap (data.vspw.gap=start)")


def sizes(split: str, dataset: Any, frames: Frames, shapes_read: Mapping[str, set[Size]]) -> Iterator[Finding]:
    """Yield the videos with frames of more than one size, by the frames that were read and by the headers of files."""
    by_video = {video: set(shapes_read.get(video, ())) for video in frames}
    if hasattr(dataset, "size"):
        every = sum(map(len, frames.values())) <= HEADERS

        def of(video: str) -> set[Size]:
            names = frames[video]
            return {
                size for name in (names if every else picks(names)) if (size := size_of(dataset, split, video, name))
            }

        with ThreadPoolExecutor(4) as pool:
            for video, more in zip(frames, pool.map(of, frames), strict=True):
                by_video[video] |= more
    mixed = {video: shapes for video, shapes in by_video.items() if len(shapes) > 1}
    if mixed:
        shown = some(f"{video} ({some(f'{w}×{h}' for w, h in sorted(shapes))})" for video, shapes in mixed.items())
        text = f"{split}: frames of more than one size within {count(len(mixed), 'video')}: {shown}"
        remedy = "resize the frames or split the video: all frames of a clip need the same size"
        yield Finding(PART, False, text, remedy)


def size_of(dataset: Any, split: str, video: str, name: str) -> Size | None:
    """Return a frame's width and height; None where its file does not say, which reading it tells."""
    try:
        height, width = dataset.size(split, video, name)
    except HarnessError:
        return None
    return width, height


def across(
    dataset: Dataset, splits: Mapping[str, Frames], images: Mapping[str, Mapping[str, set[bytes]]]
) -> Iterator[Finding]:
    """Yield videos in two splits, recordings cut for both training and validation, equal content under two names.

    `images` holds digests of the images that were read, by split and video.
    """
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if first not in splits or second not in splits:
            continue
        names = {unicodedata.normalize("NFC", video) for video in splits[first]}
        both = [video for video in splits[second] if unicodedata.normalize("NFC", video) in names]
        if both:
            text = f"{count(len(both), 'video')} in both {first} and {second}: {some(both)}"
            yield Finding(PART, False if second == "val" else None, text, apart(first, second))
        yield from copies(dataset, first, second, splits, images, both)
    try:
        units = {split: {dataset.unit(video) for video in splits.get(split, ())} for split in ("train", "val")}
    except Exception:  # of a person's own data set; `harness check` tells what it owes
        return
    shared = sorted((units["train"] & units["val"]) - set(splits.get("val", ())))
    if shared:
        text = f"{count(len(shared), 'recording')} with videos in both train and val: {some(shared)}"
        yield Finding(PART, None, text, "videos of one recording are similar; split by recording for a fair result")


def apart(first: str, second: str) -> str:
    """Return the remedy for what two splits share."""
    return f"remove them from {first}.txt or {second}.txt; otherwise results on {second} are not fair"


def copies(
    dataset: Any,
    first: str,
    second: str,
    splits: Mapping[str, Frames],
    images: Mapping[str, Mapping[str, set[bytes]]],
    named: Sequence[str],
) -> Iterator[Finding]:
    """Yield videos of the second split that are the first's under a name not in `named`, by files' bytes and pixels."""
    equal: dict[str, str] = {}  # video -> its original
    if hasattr(dataset, "files"):
        originals = {signature(dataset, first, video, picks(names)): video for video, names in splits[first].items()}
        for video, names in splits[second].items():
            original = originals.get(signature(dataset, second, video, picks(names)) or b"")
            if original is not None:
                whole = signature(dataset, first, original, splits[first][original])
                if signature(dataset, second, video, names) == whole:
                    equal[video] = original
    owners = {image: video for video, digests in images.get(first, {}).items() for image in digests}
    partly: dict[str, str] = {}
    for video, digests in images.get(second, {}).items():
        shared = [owners[image] for image in digests if image in owners]
        if shared:
            (equal if len(shared) == len(digests) else partly).setdefault(video, shared[0])
    for which, what in ((equal, "with the images of one of"), (partly, "with some images of one of")):
        pairs = [f"{video} = {original}" for video, original in which.items() if video not in (*named, original)]
        if pairs:
            text = f"{count(len(pairs), 'video')} of {second} {what} {first}: {some(pairs)}"
            yield Finding(PART, False if which is equal and second == "val" else None, text, apart(first, second))


def signature(dataset: Any, split: str, video: str, names: Sequence[str]) -> bytes | None:
    """Return a digest of the files of some of a video's images; None where one cannot be read."""
    content = hashlib.sha256()
    try:
        files = dataset.files(split, video)
        for name in names:
            path: Path = files[name].image
            content.update(hashlib.sha256(path.read_bytes()).digest())
    except (OSError, HarnessError):
        return None
    return content.digest()
