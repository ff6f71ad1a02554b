"""Check files in VSPW's layout: the class list, published counts, files of 0 bytes, masks without image."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import UnfitError
from harness.data import pictures
from harness.data.datasets import _vspw_classes, vspw
from harness.tools.doctor._finding import Finding, count, some

PART = "data"
FRAMES = {"train": 198_244, "val": 24_502, "test": 28_887}  # of VSPW, as published


def is_vspw(dataset: Any) -> bool:
    """Return whether the classes are VSPW's, so that its published counts must be met."""
    return tuple(dataset.classes) == _vspw_classes.NAMES


def class_list(dataset: Any) -> Iterator[Finding]:
    """Report the source of the class names where it is not the data's own file."""
    root = dataset.config.root
    folder = Path(root or "").expanduser()
    if root is not None and folder.is_dir() and not (folder / vspw.CLASS_LIST).is_file():
        text = f"no {vspw.CLASS_LIST} in {root}: the class names are VSPW's {len(_vspw_classes.NAMES)}"
        yield Finding(PART, None, text, "for other data, create that file (docs/DATA.md)")


def expected(dataset: Any, split: str, videos: int, frames: int) -> Iterator[Finding]:
    """Check videos against data.vspw.expect_*, frames against VSPW's own; other data need not meet VSPW's counts."""
    key = f"expect_{split}"
    wanted, published = getattr(dataset.config, key), getattr(vspw.Config(), key)
    if videos != wanted:
        binding = is_vspw(dataset) or wanted != published
        text = f"{split}: {count(videos, 'video')}, not the {wanted} of data.vspw.{key}"
        remedy = f"complete {split}.txt; for your own data set data.vspw.{key}={videos}"
        yield Finding(PART, False if binding else None, text, remedy)
    elif is_vspw(dataset) and wanted == published and frames != FRAMES[split]:
        text = f"{split}: {count(frames, 'frame')} where VSPW has {count(FRAMES[split], 'frame')}"
        yield Finding(
            PART, None, text, "results on other frames are not comparable; compare with the archive's own list"
        )


def files(dataset: Any, split: str, videos: Sequence[str]) -> Iterator[Finding]:
    """Yield files of 0 bytes, and masks that no image belongs to."""
    data = Path(dataset.config.root).expanduser() / "data"
    empty: list[Path] = []
    stray: list[Path] = []
    others: list[Path] = []
    for video in videos:
        images, unknown = listed(data / video / "origin", pictures.IMAGES)
        masks, _ = listed(data / video / "mask", pictures.MASKS)
        empty += [
            path for path in (*images.values(), *masks.values()) if os.path.isfile(path) and not path.stat().st_size
        ]
        stray += [path for stem, path in masks.items() if stem not in images]
        others += unknown
    if empty:
        text = f"{split}: {count(len(empty), 'file')} of 0 bytes: {some(empty)}"
        yield Finding(PART, False, text, f"download them again, or remove their videos from {split}.txt")
    if stray:
        yield Finding(PART, None, f"{split}: {count(len(stray), 'mask')} without image, not used: {some(stray)}")
    if others:
        text = (
            f"{split}: {count(len(others), 'file')} among the images without an image suffix, not used: {some(others)}"
        )
        yield Finding(PART, None, text, f"frames among them need one of {', '.join(pictures.IMAGES)}")


def listed(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[Path]]:
    """Return stem -> picture of a folder by name, and the files that are none; nothing if the folder is incomplete."""
    try:
        files = pictures.list_pictures(folder, suffixes)
        others = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except (OSError, UnfitError):
        return {}, []
    unknown = [folder / name for name in others if os.path.splitext(name)[1].lower() not in suffixes]
    return dict(sorted(files.items())), unknown
