"""Evaluation of models and ensembles: one confusion matrix a video, each frame read once for all jobs of a launch.

No collective is used. Each rank takes whole videos, longest first, and writes videos/<video>.npz of every job by
rename; a video whose file is there is not done again. A split without labels also leaves its masks, in
masks/<video>/<frame>.png; others do so where `evaluate.keep_masks` asks for it. Every split leaves the mask of each
video's middle frame, in samples/.

P of a task is the mask of the stage before, computed off the same cache, or it is handed in: the truth, or saved masks
of that stage (`evaluate.prior_masks`), which gives equal masks.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from harness.common.errors import UnfitError
from harness.data.contract import Dataset, Frame
from harness.data.pictures import read_labels, shown
from harness.engine import build, checkpoint, jobs, runtime, sliding_window, snapshots
from harness.engine.evaluation_counts import Counts
from harness.engine.multistage import Prediction, Stages
from harness.engine.runtime import Rank, Stop
from harness.engine.sliding_window import Geometry
from harness.jobdir.events import Loaded, Log, Peak, Progress
from harness.jobdir.paths import JobDir
from harness.plan.job import GIVEN
from models.segmentor import Segmentor

VERSION = 1


class Worker(NamedTuple):
    """Who computes what: a member under a geometry, a precision and a control; tasks that need the same share it."""

    member: str
    geometry: Geometry
    precision: str
    control: str | None


class Task(NamedTuple):
    """One evaluation job of a launch."""

    folder: Path
    job: dict[str, Any]
    members: tuple[str, ...]
    stage: int
    geometry: Geometry
    given: str | None = None  # P: the truth, or the folder of saved masks; None: the mask of the stage before

    @property
    def source(self) -> int | str:
        """Which of a member's predictions is its part of the task: a stage, or the one for a P that is handed in."""
        return self.stage if self.given is None else self.given

    @property
    def before(self) -> int | None:
        """The stage that it is compared with, if one is computed; for the truth that is stage 0."""
        if self.given is None:
            return self.stage - 1 if self.stage else None
        return 0 if self.given in GIVEN else None

    @property
    def last(self) -> int:
        """The last stage that it needs of its members, -1 for none."""
        return self.stage if self.given is None else 0 if self.given in GIVEN else -1

    def worker(self, member: str) -> Worker:
        """Who computes a member's part of it."""
        return Worker(member, self.geometry, self.job["precision"], self.job.get("control"))

    def file(self, video: str) -> Path:
        """Where a video's counts lie."""
        return JobDir(self.folder).videos / f"{video}.npz"


class Seen(NamedTuple):
    """What a task says of a frame, and what it was made of."""

    mask: Tensor  # (H, W) int64
    before: Tensor | None  # (H, W), the mask of the stage before
    windows: int  # of all members
    exited: int | None  # of them, those that were not computed again; None where no stage is before


def task(folder: Path) -> Task:
    """A job directory as a task. Raises UnfitError where job.yaml cannot be read or a member has no weights."""
    job = jobs.read(folder)
    for member in job["members"]:
        if not JobDir(folder.parent / member).weights_file.is_file():
            raise UnfitError(f"member {member} has no weights: its training has not finished; train it first")
    how = job["evaluate"]
    window = how.get("window") or jobs.read(folder.parent / job["members"][0])["train"]["crop"]
    geometry = sliding_window.geometry(window, how.get("stride"), how.get("short_side"), job["scales"], job["flip"])
    return Task(folder, job, tuple(job["members"]), job["stage"], geometry, given(job))


def given(job: Mapping[str, Any]) -> str | None:
    """Where a job's P is handed in from: one of GIVEN, or a folder of masks; None where it comes from the stage before.

    Raises UnfitError for masks of which nothing says whose they are. Those of another stage than a job's are not its.
    """
    if job["prior"] in GIVEN:
        return str(job["prior"])
    saved = job["evaluate"].get("prior_masks")
    if saved is None or job["prior"] is None:
        return None
    folder = Path(saved).expanduser()
    return str(JobDir(folder).masks) if jobs.read(folder)["fingerprint"] == job["prior"] else None


def same_frames(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks in groups that read the same split of the same data."""
    groups: dict[str, list[Task]] = {}
    for one in tasks:
        key = json.dumps([one.job["data"], one.job["split"], one.job["plugins"]], sort_keys=True)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def evaluate(tasks: Sequence[Task], rank: Rank, stop: Stop) -> None:
    """Compute this rank's missing videos of tasks that read the same frames.

    Raises Stopped after a signal, at the next frame: videos that are finished stay, the one at hand is done again.
    """
    job = tasks[0].job
    stop.check()
    runtime.begin_peak(rank.device)
    for one in tasks:
        runtime.check_precision(rank.device, one.job["precision"])
    dataset, split = build.dataset(job), job["split"]
    videos = dataset.videos(split)[: job.get("videos")]  # all but in a rehearsal
    lengths = {video: len(dataset.frames(split, video)) for video in videos}
    journals = {
        one.folder: jobs.begin(
            one.folder, rank, done(one.folder), len(videos), "videos", jobs.ours(one.folder, one.job)
        )
        for one in tasks
        if rank.first
    }
    try:
        workers = load(tasks, len(dataset.classes), rank.device)
        for journal in journals.values():
            journal.write(Loaded())
        for video in share(lengths, rank.rank, rank.world):
            stop.check()
            lacking = [one for one in tasks if not one.file(video).exists()]
            if lacking:
                run_video(lacking, workers, dataset, split, video, rank.device, stop)
            for folder, journal in journals.items():
                journal.write(Progress(step=done(folder)))
        if found := dirty(dataset):
            for journal in journals.values():
                journal.write(Log(message=found))
        for journal in journals.values():
            journal.write(Peak(bytes=runtime.peak(rank.device)))  # the first rank's, which has the longest video
    finally:
        for journal in journals.values():
            journal.close()


def dirty(dataset: Dataset) -> str:
    """What the label map had to ignore, in a line; empty where masks were clean or the data set counts nothing."""
    counts = getattr(dataset, "dirty", {})
    named = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in sorted(counts.items()))
    return f"mask values that are no class were ignored: {named}" if named else ""


def share(lengths: Mapping[str, int], rank: int, world: int) -> list[str]:
    """The videos of a rank: all videos longest first, each to the rank with least to do. Every rank agrees on it."""
    load = [0] * world
    mine = []
    for video in sorted(lengths, key=lambda video: (-lengths[video], video)):
        taker = load.index(min(load))
        load[taker] += lengths[video]
        if taker == rank:
            mine.append(video)
    return mine


def load(tasks: Sequence[Task], num_classes: int, device: torch.device) -> dict[Worker, Stages]:
    """Every distinct member of the tasks with its trained weights; one set of weights a member and control."""
    folders = {member: one.folder.parent / member for one in tasks for member in one.members}
    found = dict.fromkeys(one.worker(member) for one in tasks for member in one.members)
    wanted = sorted(found, key=lambda who: who.member)
    kinds = dict.fromkeys((who.member, who.control) for who in wanted)
    models = {kind: controlled(model(folders[kind[0]], num_classes), kind[1]) for kind in kinds}
    return {who: Stages(models[who.member, who.control], who.geometry, who.precision, device) for who in wanted}


def controlled(model: Segmentor, control: str | None) -> Segmentor:
    """The model with a part of its decoder taken away. Raises UnfitError for a control that the decoder has not."""
    decoder = model.decoder
    if control is not None:
        if control not in decoder.controls or decoder.control is not None:
            known = ", ".join(decoder.controls) if decoder.control is None else f"none beside {decoder.control}"
            raise UnfitError(f"control {control}: this decoder has {known or 'none'}; take one of its own")
        decoder.control = control
    return model


def model(folder: Path, num_classes: int) -> Segmentor:
    """A member's network with its weights; its folder bears its fingerprint. Raises UnfitError as `filled` does."""
    job = jobs.read(folder)
    if job["fingerprint"] != folder.name:
        raise UnfitError(f"{shown(folder)}: belongs to the training {job['fingerprint']}; put it back there")
    return filled(folder, job, num_classes)


def filled(folder: Path, job: Mapping[str, Any], num_classes: int) -> Segmentor:
    """A training's network with the weights that lie beside its job.yaml.

    Raises UnfitError for weights that are damaged, another training's, or do not fit the job.
    """
    path = JobDir(folder).weights_file
    made = build.segmentor(job, num_classes)
    wanted = made.state_dict()
    found, metadata = checkpoint.weights(folder)
    whose = metadata.get("fingerprint", job["fingerprint"])
    if whose != job["fingerprint"]:
        raise UnfitError(
            f"{shown(path)}: belongs to the training {whose}, not to {job['fingerprint']}; put it back there"
        )
    odd = sorted(name for name in wanted.keys() | found.keys() if shape(wanted, name) != shape(found, name))
    if odd:
        name = next((name for name in odd if name == "decoder.classifier.1.weight"), odd[0])
        raise UnfitError(
            f"{shown(path)}: does not fit its job with {num_classes} classes: {name} is {shape(found, name)}, not "
            f"{shape(wanted, name)} ({len(odd)} such); were the classes of the data changed, or the file exchanged?"
        )
    made.load_state_dict(found)
    return made


def shape(state: Mapping[str, Tensor], name: str) -> str:
    """A tensor's shape for people."""
    return " × ".join(map(str, state[name].shape)) or "a number" if name in state else "absent"


def run_video(
    tasks: Sequence[Task],
    workers: Mapping[Worker, Stages],
    dataset: Dataset,
    split: str,
    video: str,
    device: torch.device,
    stop: Stop,
) -> None:
    """One video for all tasks that lack it: each frame is decoded once, each member encodes it once."""
    counts = {one.folder: Counts(len(dataset.classes), device) for one in tasks}
    middle = snapshots.middle(dataset.frames(split, video))
    sources = list(dict.fromkeys(one.given for one in tasks if one.given is not None))
    for stages in workers.values():
        stages.start()
    for name, frame in read_ahead(dataset, split, video):
        stop.check()
        image = torch.from_numpy(frame.image).to(device).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
        label = None if frame.label is None else torch.from_numpy(frame.label).to(device)
        where = Path(video) / f"{name}.png"
        labelled = {source: teller(source, dataset, split, where, frame) for source in sources}
        priors = {
            source: prior(source, where, other, len(dataset.classes)).to(device) for source, other in labelled.items()
        }
        for one, seen in masks(tasks, workers, image, priors):
            counts[one.folder].add(seen.mask, label)
            counts[one.folder].compare(*seen)
            kept = label is None or one.job["evaluate"].get("keep_masks")
            if kept or name == middle:
                jobs.ours(one.folder, one.job)()
            if name == middle:
                snapshots.sample(JobDir(one.folder).samples / where, seen.mask, len(dataset.classes))
            if kept:
                save_mask(JobDir(one.folder).masks / where, seen.mask)
    for one in tasks:
        counts[one.folder].save(one.file(video), jobs.ours(one.folder, one.job))


def teller(source: str, dataset: Dataset, split: str, where: Path, frame: Frame) -> Frame:
    """The frame whose labels are P at `where` (video/name): itself, the one before, or one of any other video.

    A video's first frame has none before and takes itself; the other one is drawn evenly, the same each time.
    """
    video, name = str(where.parent), where.stem
    if source == "truth_before":
        names = dataset.frames(split, video)
        before = names[max(0, names.index(name) - 1)]
        return frame if before == name else dataset.read(split, video, before)
    if source == "truth_other":
        rng = np.random.default_rng(zlib.crc32(str(where).encode()))
        others = [other for other in dataset.videos(split) if other != video] or [video]
        other = others[rng.integers(len(others))]
        names = dataset.frames(split, other)
        drawn = dataset.read(split, other, names[rng.integers(len(names))])
        return drawn if drawn.label is None else drawn._replace(label=fitted(drawn.label, frame.image.shape[:2]))
    return frame


def fitted(label: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A label at another size, nearest.  # (H, W)"""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape, strict=True))
    return label[rows[:, None], columns]


def prior(source: str, where: Path, frame: Frame, num_classes: int) -> Tensor:
    """A P that is handed in: the labels of `frame`, or a saved mask of it.  # (H, W) int64, 255 void

    Raises UnfitError for a frame without labels, and for a mask that is absent, damaged or of another size.
    """
    if source in GIVEN:
        if frame.label is None:
            raise UnfitError(f"{where}: P = truth needs labels, and its split has none; take a split that has")
        return torch.from_numpy(frame.label).long()
    path = Path(source) / where
    mask = read_labels(path, num_classes)
    if mask.shape != frame.image.shape[:2]:
        (height, width), (rows, columns) = mask.shape, frame.image.shape[:2]
        raise UnfitError(
            f"{shown(path)}: is {width}×{height}, its frame {columns}×{rows}; are these masks of other data?"
        )
    return torch.from_numpy(mask).long()


def masks(
    tasks: Sequence[Task], workers: Mapping[Worker, Stages], image: Tensor, priors: Mapping[str, Tensor]
) -> Iterator[tuple[Task, Seen]]:
    """What each task says of the next frame: argmax of the sum of its members' probabilities.

    Each member iterates on its own mask; `priors` holds each P (H, W) that is handed in.
    """
    sums: dict[tuple[Path, int | str], Sum] = {}
    for who, stages in workers.items():  # sorted by member, as every task's members are
        asking = [one for one in tasks for member in one.members if one.worker(member) == who]
        if not asking:
            continue
        last = max(one.last for one in asking)
        handed = list(dict.fromkeys(one.given for one in asking if one.given is not None))
        predictions = stages.predict(image, last, [priors[source] for source in handed])
        for source, found in zip([*range(last + 1), *handed], predictions, strict=True):
            for one in asking:
                if source in (one.source, one.before):
                    key = one.folder, source
                    sums[key] = sums[key].add(found) if key in sums else Sum(found, len(one.members) > 1)
    for one in tasks:
        whole = sums[one.folder, one.source]
        before = priors.get(str(one.source)) if one.before is None else sums[one.folder, one.before].mask()
        yield one, Seen(whole.mask(), before, whole.windows, whole.exited)


class Sum:
    """Members' predictions for one P, added up; of a single one the mask alone is held."""

    def __init__(self, first: Prediction, several: bool) -> None:
        self._total = first.probabilities if several else None  # (K, H, W)
        self._mask = first.mask
        self.windows, self.exited = first.windows, first.exited

    def add(self, other: Prediction) -> "Sum":
        """Take in a further member."""
        assert self._total is not None
        self._total = self._total + other.probabilities
        self.windows += other.windows
        self.exited = None if self.exited is None or other.exited is None else self.exited + other.exited
        return self

    def mask(self) -> Tensor:
        """The most probable classes.  # (H, W)"""
        return self._mask if self._total is None else sliding_window.labels(self._total)


def read_ahead(dataset: Dataset, split: str, video: str) -> Iterator[tuple[str, Frame]]:
    """A video's frames in time with their names; the next one is decoded while this one is looked at."""
    names = dataset.frames(split, video)
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(dataset.read, split, video, name) for name in names[:1]]
        for index, name in enumerate(names):
            frame = ahead.pop().result()
            ahead = [reader.submit(dataset.read, split, video, later) for later in names[index + 1 : index + 2]]
            yield name, frame


def save_mask(path: Path, mask: Tensor) -> None:
    """Write a mask as the benchmark's server wants it: one channel, 8 bits, class indices from 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.to(torch.uint8).cpu().numpy()).save(path)


def done(folder: Path) -> int:
    """Videos of an evaluation whose counts are written."""
    return len(JobDir(folder).video_files())
