"""Any folder of predicted masks, scored by the official metrics: a row to set beside our own.

Shapes: K classes, H × W pixels.

A folder holds FOLDER/VIDEO/FRAME.png for every frame of a split that has a label, one class index 0..K-1 a pixel, as
VSPW's server takes them; masks of other frames are not looked at. A score is what its masks and its data are:
<root>/scores/<16 hex digits>/ with videos/VIDEO.npz as evaluations write them (confusion (K, K), rows are the truth;
frames; void), and score.json when all are there.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.common.atomic_files import temporary, write_json
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import SILENT, Progress
from harness.common.progress import Task as ProgressTask
from harness.config import input_digests
from harness.config.compose import Config
from harness.data import contract, hold_out
from harness.data.contract import Dataset
from harness.data.manifest import add_pixels
from harness.data.pictures import read_labels, shown
from harness.jobdir.paths import JobDir, OutputDir
from harness.plan import adoption
from harness.plan.job import data_identity, digest
from harness.plan.plan import Experiment
from harness.results.metrics import Consistency
from harness.results.records import RunRecord, chosen, read_evaluation
from harness.results.rows import CellResult

VERSION = 1  # of the counting: raised when a change moves numbers
LONGEST = 60  # characters of a name


class Task(NamedTuple):
    """Masks, the data they are compared with, and where the counts go."""

    folder: Path
    dataset: Dataset
    split: str
    directory: Path

    def file(self, video: str) -> Path:
        """Return the file of a video's counts."""
        return JobDir(self.directory).videos / f"{video}.npz"


class Counts(NamedTuple):
    """Of one video, as its file holds them."""

    confusion: NDArray[np.int64]  # (K, K), rows are the ground truth
    frames: int
    void: int  # pixels that the ground truth leaves out
    vc: NDArray[np.float64]  # totals of Consistency


@dataclass(frozen=True)
class Score:
    """A finished score, as score.json holds it."""

    name: str
    split: str
    data: dict[str, object]
    version: int
    seconds: float


def score(folder: Path, name: str, config: Config, root: Path, split: str = "val", progress: Progress = SILENT) -> Path:
    """Score a folder of masks; returns the score's directory. Equal masks are scored once, videos done stay done.

    A video is two steps: its masks are read and checked, then compared with the ground truth. Raise UsageError for a
    name that is unfit or taken, UnfitError for masks that are missing, damaged or of another size, for a label that is
    no class, and for data that is not there or has no labels.
    """
    check_name(name)
    dataset = input_digests.build_dataset(config)
    config = digested(config, dataset, split, root, progress)
    data = identity(config, dataset, split)
    frames = listed(folder, dataset, split)
    masks: dict[str, str] = {}
    steps = progress.task("", "steps")
    for video, stems in frames.items():
        steps.update(len(masks), 2 * len(frames))
        masks[video] = digest_of(folder, video, stems, len(dataset.classes))
    directory = OutputDir(root).scores / digest([VERSION, data, split, masks])
    check_free(name, directory, data, split)
    score_file = JobDir(directory).score_file
    if not score_file.exists():
        try:
            seconds = count_all(Task(folder, dataset, split, directory), frames, masks, steps)
            facts = {"schema": 1, "name": name, "split": split, "data": data, "version": VERSION, "seconds": seconds}
            write_json(score_file, facts)
        except OSError as error:
            why = f"cannot be written: {error.strerror or error}"
            raise UnfitError(f"{shown(directory)}: {why}; free some space, or give another --root") from error
    steps.update(2 * len(frames), 2 * len(frames))
    return directory


def scores(root: Path, config: Config, split: str = "val") -> list[tuple[str, RunRecord]]:
    """Return name and record of each finished score of the configuration's data, by name; none without the data."""
    try:
        if not config.content.splits:
            config = adoption.resolve(config, root, only=(hold_out.source(split),))
        data = identity(config, input_digests.build_dataset(config), split)
    except UnfitError:
        return []
    records = []
    for directory, saved in finished(root):
        if (saved.data, saved.split, saved.version) == (data, split, VERSION):
            provenance = {"name": saved.name, "split": saved.split, "seconds": saved.seconds}
            record = read_evaluation(directory, chosen(config))
            records.append((saved.name, replace(record, provenance=provenance)))
    return sorted(records, key=lambda record: record[0])


def rows(experiment: Experiment, records: Iterable[tuple[str, RunRecord]]) -> list[CellResult]:
    """Return scores on an experiment's data, as rows below its own; none has a paper's number or a gain."""
    last = len(experiment.cells)
    return [
        CellResult(
            experiment=experiment.name,
            cell=f"score_{name}",
            label=f"{name} (masks)",
            seed=0,
            status="done",
            method=name,
            fingerprint=record.fingerprint,
            miou=record.final["miou"],
            metrics=record.final,
            units=len(set(unit_of.values())),
            videos=record.videos,
            unit_of=unit_of,
            totals=record.totals(unit_of),
            order=last + index,
        )
        for index, (name, record) in enumerate(records)
        for unit_of in [input_digests.units(experiment.config, record.videos)]
    ]


def digested(config: Config, dataset: Dataset, split: str, root: Path, progress: Progress) -> Config:
    """Return the configuration with the digest of a split. Raise UnfitError where its files cannot be read."""
    dataset.digest(split)
    source = hold_out.source(split)
    resolved = adoption.resolve(config, root, True, progress, only=(source,))
    if why := resolved.content.undigested.get(source):
        raise UnfitError(why)
    return resolved


def identity(config: Config, dataset: Dataset, split: str) -> dict[str, object]:
    """Return the data that a score rests on, as jobs know it. Raise UnfitError where it is not there."""
    dataset.digest(split)
    plain: dict[str, object] = json.loads(json.dumps(data_identity(config, split)))  # tuples as lists, as in score.json
    return plain


def check_name(name: str) -> None:
    """Raise UsageError for a name that would not stand in one cell of a table."""
    if not name.strip():
        raise UsageError("--name is empty: name what produced the masks, for example --name PSPNet")
    for unfit, why in (
        (len(name) > LONGEST, f"is longer than {LONGEST} characters"),
        (not name.isprintable(), "contains a line break or another unprintable character"),
        ("/" in name or "\\" in name, "contains a path separator"),
        (name != " ".join(name.split()), "has leading, trailing or repeated spaces"),
    ):
        if unfit:
            raise UsageError(f"--name {name[:LONGEST]!r} {why}; give a short name of one line")


def check_free(name: str, directory: Path, data: dict[str, object], split: str) -> None:
    """Raise UsageError where the name belongs to other masks of the same data, or the masks have another name."""
    for other, saved in finished(directory.parents[1]):
        if other.name == directory.name:
            if saved.name != name:
                raise UsageError(f"these masks were already scored as {saved.name!r}: use that name, not {name!r}")
        elif (saved.name, saved.data, saved.split, saved.version) == (name, data, split, VERSION):
            raise UsageError(
                f"--name {name!r} belongs to other masks ({other.name}); choose another, such as '{name} 2'"
            )


def finished(root: Path) -> Iterator[tuple[Path, Score]]:
    """Yield the directories of the scores that are whole, with their facts; what cannot be read is none."""
    for directory in sorted(OutputDir(root).scores.glob("*/")):
        try:
            facts = json.loads(JobDir(directory).score_file.read_text())
            yield directory, Score(**{field.name: facts[field.name] for field in fields(Score)})
        except (OSError, ValueError, TypeError, KeyError):
            continue


def listed(folder: Path, dataset: Dataset, split: str) -> dict[str, tuple[str, ...]]:
    """Return the labelled frames of each video that has some. Raise UnfitError if the folder lacks one, or none is."""
    if not os.path.isdir(folder):
        raise UnfitError(f"{shown(folder)}: no such folder; it should hold VIDEO/FRAME.png for the {split} split")
    if not contract.has_labels(dataset, split):
        raise UnfitError(f"the {split} split has no labels to score by; score a split that has")
    videos = contract.labelled_videos(dataset, split)
    absent = [video for video in videos if not os.path.isdir(folder / video)]
    if absent:
        raise UnfitError(
            f"{shown(folder)}: lacks {len(absent)} of the {split} split's {len(videos)} videos, {absent[0]!r} first; "
            "add their masks"
        )
    frames = {video: contract.labelled(dataset, split, video) for video in videos}
    wanted = [folder / video / f"{stem}.png" for video, stems in frames.items() for stem in stems]
    missing = [path for path in wanted if not os.path.isfile(path)]
    if missing:
        raise UnfitError(
            f"{shown(missing[0])}: no such mask ({len(missing)} of {len(wanted)} are missing); add one per frame"
        )
    return frames


def digest_of(folder: Path, video: str, stems: tuple[str, ...], num_classes: int) -> str:
    """Return sha256 of a video's masks: frames, sizes and pixels in time, however the files store them."""
    digester = hashlib.sha256(json.dumps(video).encode())
    for stem in stems:
        add_pixels(digester, stem, read_labels(folder / video / f"{stem}.png", num_classes))
    return digester.hexdigest()


def count_all(task: Task, frames: dict[str, tuple[str, ...]], masks: dict[str, str], steps: ProgressTask) -> float:
    """Count the videos that are not counted yet, each into its file by rename; the seconds that all of them took."""
    JobDir(task.directory).videos.mkdir(parents=True, exist_ok=True)
    seconds = 0.0
    for done, (video, stems) in enumerate(frames.items()):
        steps.update(len(frames) + done, 2 * len(frames))
        target = task.file(video)
        if not target.exists():
            begun = time.monotonic()
            counts = count(task, video, stems, masks[video])
            partial = temporary(target)
            with partial.open("wb") as file:
                np.savez(file, **counts._asdict(), seconds=time.monotonic() - begun)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        with np.load(target, allow_pickle=False) as saved:
            seconds += float(saved["seconds"])
    return seconds


def count(task: Task, video: str, stems: tuple[str, ...], expected: str) -> Counts:
    """Count one video.

    Raise UnfitError for a mask of another size than its frame's, and where the masks are no longer the `expected`.
    """
    classes, labelled = len(task.dataset.classes), 0
    confusion, consistency = np.zeros((classes, classes), np.int64), Consistency(classes)
    digester = hashlib.sha256(json.dumps(video).encode())
    names = task.dataset.frames(task.split, video)
    before = ""  # the frame that was counted last
    for stem in stems:
        if before and names[names.index(before) + 1] != stem:
            consistency.interrupt()
        before = stem
        truth = task.dataset.read(task.split, video, stem).label
        assert truth is not None
        path = task.folder / video / f"{stem}.png"
        mask = read_labels(path, classes)
        add_pixels(digester, stem, mask)
        if mask.shape != truth.shape:
            (height, width), (rows, columns) = mask.shape, truth.shape
            raise UnfitError(f"{shown(path)}: is {width}×{height}, its frame {columns}×{rows}; save it at that size")
        valid = truth < classes
        pairs = truth[valid].astype(np.int64) * classes + mask[valid]
        confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        consistency.add(truth, mask)
        labelled += truth.size
    if digester.hexdigest() != expected:
        raise UnfitError(f"{shown(task.folder / video)}: changed while it was read; score it again when it is complete")
    void = labelled - int(confusion.sum())
    return Counts(confusion, len(stems), void, consistency.totals)
