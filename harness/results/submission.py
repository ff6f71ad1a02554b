"""Masks of a split without labels, as the challenge's server takes them: whole or not, and packed into one file.

A submission is a folder, or a .zip of what is in it, of VIDEO/FRAME.png for every frame of the split and nothing else:
one channel of 8 bits, a class index 0..K-1 a pixel, the frame's own size. Shapes: H × W pixels.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.common.atomic_files import temporary
from harness.common.errors import UnfitError
from harness.common.progress import SILENT, Progress
from harness.config import input_digests
from harness.config.compose import Config
from harness.data import manifest
from harness.data.contract import Dataset
from harness.data.pictures import read_labels, shown
from harness.plan.cell import Cell
from harness.plan.plan import Plan

EPOCH = (1980, 1, 1, 0, 0, 0)  # equal masks make equal files


class Masks:
    """The files of a folder or of a .zip. Raises UnfitError where it is neither."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if os.path.isdir(path):
            self.names = {file.relative_to(path).as_posix() for file in files(path)}
        else:
            try:
                self._zip = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise UnfitError(f"{shown(path)}: neither a folder of masks nor a .zip file ({error})") from error
            self.names = {name for name in self._zip.namelist() if not name.endswith("/")}

    def data(self, name: str) -> bytes | None:
        """Return a file's bytes where it is packed; None in a folder. Raise UnfitError for a damaged one."""
        if self._zip is None:
            return None
        try:
            return self._zip.read(name)
        except (OSError, RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:
            raise UnfitError(f"{shown(self.path / name)}: cannot be unpacked ({error}); pack it again") from error


def files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield all files below a folder, links followed; one that leads back to a folder `above` is passed over."""
    for path in sorted(folder.iterdir()):
        if not os.path.isdir(path):
            yield path
        elif (real := os.path.realpath(path)) not in above:
            yield from files(path, (*above, real))


def unlabelled(config: Config, split: str) -> bool:
    """Return whether a split has frames but no labels. Raise UnfitError where its data is not there."""
    dataset = input_digests.build_dataset(config)
    videos = dataset.videos(split)
    if not videos:
        raise UnfitError(f"the data set has no video in its {split} split")
    return dataset.read(split, videos[0], dataset.frames(split, videos[0])[0]).label is None


def check(path: Path, config: Config, split: str, progress: Progress = SILENT) -> list[str]:
    """Return what the server would refuse in a folder or .zip of masks, one line each; empty if it is complete.

    Raise UnfitError for what is no submission at all.
    """
    return list(problems(Masks(path), input_digests.build_dataset(config), split, progress))


def problems(masks: Masks, dataset: Dataset, split: str, progress: Progress) -> Iterator[str]:
    """Yield missing frames, wrong sizes, labels that are no class, other files: by video, then the rest."""
    videos, expected = dataset.videos(split), set()
    task = progress.task("", "videos")
    for done, video in enumerate(videos):
        task.update(done, len(videos))
        for frame in dataset.frames(split, video):
            name = f"{video}/{frame}.png"
            expected.add(name)
            if name not in masks.names:
                yield f"{shown(name)}: missing"
                continue
            try:
                mask = read_labels(masks.path / name, len(dataset.classes), masks.data(name), np.uint8)
            except UnfitError as error:
                yield str(error)
                continue
            size = dataset.read(split, video, frame).image.shape[:2]
            if mask.shape != size:
                (height, width), (rows, columns) = mask.shape, size
                yield f"{shown(name)}: is {width}×{height}, its frame {columns}×{rows}"
    task.update(len(videos), len(videos))
    yield from (
        f"{shown(name)}: not a frame of the {split} split; remove it" for name in sorted(masks.names - expected)
    )


def pack(masks: Path, target: Path) -> None:
    """Zip a folder of masks with VIDEO/FRAME.png at its top, by rename. Raise OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(target)
    with zipfile.ZipFile(partial, "w") as packed:  # stored: a PNG is compressed already
        for path in sorted(masks.glob("*/*.png")):
            packed.writestr(zipfile.ZipInfo(path.relative_to(masks).as_posix(), EPOCH), path.read_bytes())
    partial.replace(target)


def of_cell(plan: Plan, cell: Cell) -> str:
    """Pack the masks of a finished evaluation without labels into the root, once, checked; return where, in words.

    Names the first problem where they are not what the server takes.
    """
    target = plan.output.submissions / f"{cell.job.split}_{cell.job.fingerprint}.zip"
    if not target.exists():
        folder = plan.jobdir(cell.job).masks
        if folder.is_dir() and (changes := manifest.broken_seal(plan.directory(cell.job))):
            changed = changes.text("its masks")
            return f"not packed: the masks changed after they were produced: {changed}; use --rerun {cell.name}"
        wrong = check(folder, cell.job.config, cell.job.split) if folder.is_dir() else ["its masks have been deleted"]
        if wrong:
            return f"not packed: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
        try:
            pack(folder, target)
        except OSError as error:
            return f"not packed: {shown(target)}: {error.strerror or error}"
    return f"no ground truth for scoring; checked and packed for the server as {shown(target)}"
