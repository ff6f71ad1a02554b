"""What only files in VSPW's layout show: the class list, published counts, files of 0 bytes, masks without image."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.data.datasets import _vspw_classes, vspw
from harness.tools.doctor._finding import Finding, count, some

PART = "data"
FRAMES = {"train": 198_244, "val": 24_502, "test": 28_887}  # of VSPW, as published


def is_vspw(dataset: Any) -> bool:
    """Whether the classes are VSPW's, so that its published counts must be met."""
    return tuple(dataset.classes) == _vspw_classes.NAMES


def class_list(dataset: Any) -> Iterator[Finding]:
    """Where the class names come from."""
    root = dataset.config.root
    folder = Path(root or "").expanduser()
    if root is not None and folder.is_dir() and not (folder / vspw.CLASS_LIST).is_file():
        text = f"no {vspw.CLASS_LIST} in {root}: the class names are VSPW's {len(_vspw_classes.NAMES)}"
        yield Finding(PART, None, text, "for other data, write that file (docs/DATA.md)")


def expected(dataset: Any, split: str, videos: int, frames: int) -> Iterator[Finding]:
    """Videos against data.vspw.expect_*, frames against VSPW's own; other data need not meet VSPW's counts."""
    key = f"expect_{split}"
    wanted, published = getattr(dataset.config, key), getattr(vspw.Config(), key)
    if videos != wanted:
        binding = is_vspw(dataset) or wanted != published
        text = f"{split}: {count(videos, 'video')}, not the {wanted} of data.vspw.{key}"
        remedy = f"complete {split}.txt; for data of your own set data.vspw.{key}={videos}"
        yield Finding(PART, False if binding else None, text, remedy)
    elif is_vspw(dataset) and wanted == published and frames != FRAMES[split]:
        text = f"{split}: {count(frames, 'frame')} where VSPW has {count(FRAMES[split], 'frame')}"
        yield Finding(
            PART, None, text, "numbers on other frames are not comparable; compare with the archive's own list"
        )


def files(dataset: Any, split: str, videos: Sequence[str]) -> Iterator[Finding]:
    """Files of 0 bytes, and masks that no image belongs to."""
    data = Path(dataset.config.root).expanduser() / "data"
    empty: list[Path] = []
    stray: list[Path] = []
    for video in videos:
        images = sizes(data / video / "origin", ".jpg")
        masks = sizes(data / video / "mask", ".png")
        empty += [path for path, size in [*images.items(), *masks.items()] if not size]
        stems = {path.stem for path in images}
        stray += [path for path in masks if path.stem not in stems]
    if empty:
        text = f"{split}: {count(len(empty), 'file')} of 0 bytes: {some(empty)}"
        yield Finding(PART, False, text, f"fetch them again, or take their videos off {split}.txt")
    if stray:
        yield Finding(PART, None, f"{split}: {count(len(stray), 'mask')} without image, not used: {some(stray)}")


def sizes(folder: Path, suffix: str) -> dict[Path, int]:
    """Bytes of a folder's files with a suffix; none of a folder that is not there."""
    try:
        with os.scandir(folder) as entries:
            found = {Path(entry.path): entry.stat().st_size for entry in entries if entry.name.endswith(suffix)}
    except OSError:
        return {}
    return {path: found[path] for path in sorted(found) if not path.name.startswith(".")}
