"""Evaluation of models and ensembles: one confusion matrix a video, each frame read once for all jobs of a launch.

No collective is used. Each rank takes whole videos, longest first, and writes videos/<video>.npz of every job by
rename; a video whose file is there is not done again. A split without labels also leaves its masks, in
masks/<video>/<frame>.png; others do so where `evaluate.keep_masks` asks for it. Every split leaves the mask of each
video's middle frame, in samples/.

Frames without labels in a split that has some are shown to the members and not scored; those after a video's last
labelled frame are not read, unless masks are kept.

P of a task is the mask of the stage before, computed off the same cache, or it is handed in: the truth, or saved masks
of that stage (`evaluate.prior_masks`), which gives equal masks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from harness.common.errors import UnfitError
from harness.data import contract
from harness.data.contract import Dataset, Frame
from harness.data.pictures import shown
from harness.data.stream import label_tensor
from harness.engine import build, checkpoint, evaluation_cost, flops, jobs, runtime, sliding_window, snapshots
from harness.engine.ensemble import Result, Sum, scored_frame
from harness.engine.evaluation_cost import Pace
from harness.engine.evaluation_counts import Counts
from harness.engine.multistage import Stages
from harness.engine.optical_flow import Flow
from harness.engine.prior_sources import handed_in, labelled_frame, prior
from harness.engine.runtime import Rank, Stop
from harness.engine.sliding_window import Geometry
from harness.jobdir.events import Loaded, Log, Peak, Progress
from harness.jobdir.paths import JobDir
from harness.plan.job import GIVEN
from harness.plan.spec import EvaluateSpec, TrainSpec, read_as
from models.segmentor import Segmentor

VERSION = 1


class Worker(NamedTuple):
    """A member at work: a member under a geometry, a precision and a control; tasks that need the same share it."""

    member: str
    geometry: Geometry
    precision: str
    control: str | None


class Task(NamedTuple):
    """One evaluation job of a launch."""

    folder: Path
    job: EvaluateSpec
    geometry: Geometry
    handed_in: str | None = None  # P: the truth, or the folder of saved masks; None: the mask of the stage before

    @property
    def members(self) -> tuple[str, ...]:
        """Fingerprints of the trainings."""
        return self.job.members

    @property
    def source(self) -> int | str:
        """Which of a member's predictions is its part of the task: a stage, or the one for a P that is handed in."""
        return self.job.stage if self.handed_in is None else self.handed_in

    @property
    def before(self) -> int | None:
        """The stage that it is compared with, if one is computed; for the truth that is stage 0."""
        if self.handed_in is None:
            return self.job.stage - 1 if self.job.stage else None
        return 0 if self.handed_in in GIVEN else None

    @property
    def last(self) -> int:
        """The last stage that it needs of its members, -1 for none."""
        return self.job.stage if self.handed_in is None else 0 if self.handed_in in GIVEN else -1

    def needs(self, source: int | str) -> bool:
        """Return whether a prediction of its members, of a stage or for a P that is handed in, is computed for it."""
        return source <= self.last if isinstance(source, int) else source == self.handed_in

    def worker(self, member: str) -> Worker:
        """Return the worker of a member's part of it."""
        return Worker(member, self.geometry, self.job.precision, self.job.control)

    def file(self, video: str) -> Path:
        """Return the path of a video's counts."""
        return JobDir(self.folder).videos / f"{video}.npz"


def task(folder: Path) -> Task:
    """Return a job directory as a task. Raise UnfitError where job.yaml cannot be read or a member has no weights."""
    job = read_as(folder, EvaluateSpec)
    for member in job.members:
        if not JobDir(folder.parent / member).weights_file.is_file():
            raise UnfitError(f"member {member} has no weights: its training has not finished; train it first")
    geometry = sliding_window.geometry(job.evaluate, job.scales, job.flip)
    return Task(folder, job, geometry, handed_in(job))


def same_frames(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return tasks in groups that read the same split of the same data."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        key = json.dumps([asdict(task.job.data), task.job.split, task.job.plugins], sort_keys=True)
        groups.setdefault(key, []).append(task)
    return list(groups.values())


def evaluate(tasks: Sequence[Task], rank: Rank, stop: Stop) -> None:
    """Compute this rank's missing videos of tasks that read the same frames.

    Raise Stopped after a signal, at the next frame: videos that are finished stay, the one at hand is done again.
    """
    job = tasks[0].job
    stop.check()
    runtime.begin_peak(rank.device)
    for task in tasks:
        runtime.check_precision(rank.device, task.job.precision)
    dataset, split = build.dataset(job.data, job.plugins), job.split
    videos = contract.evaluated_videos(dataset, split)[: job.launch.videos]  # all but in a rehearsal
    lengths = {video: len(contract.evaluated(dataset, split, video)) for video in videos}
    journals = {
        task.folder: jobs.begin(
            task.folder, rank, done(task.folder), len(videos), "videos", jobs.ours(task.folder, task.job)
        )
        for task in tasks
        if rank.first
    }
    paces = {task.folder: Pace() for task in tasks}
    try:
        workers = load(tasks, len(dataset.classes), rank.device)
        truth = contract.has_labels(dataset, split)
        for journal in journals.values():
            journal.write(Loaded())
        for video in share(lengths, rank.rank, rank.world):
            stop.check()
            lacking = [task for task in tasks if not task.file(video).exists()]
            if lacking:
                for folder, pace in run_video(
                    lacking, workers, dataset, split, video, rank.device, stop, truth
                ).items():
                    paces[folder] = paces[folder].plus(*pace)
            for folder, journal in journals.items():
                journal.write(Progress(step=done(folder)))
        if ignored := dirty(dataset):
            for journal in journals.values():
                journal.write(Log(message=ignored))
        for journal in journals.values():
            journal.write(Peak(bytes=runtime.peak(rank.device)))  # the first rank's, which has the longest video
        if rank.first:
            keep_costs(tasks, workers, dataset, paces)
    finally:
        for journal in journals.values():
            journal.close()


def keep_costs(
    tasks: Sequence[Task], workers: Mapping[Worker, Stages], dataset: Dataset, paces: Mapping[Path, Pace]
) -> None:
    """Write what a frame of each task took; an attempt that had nothing left to predict leaves it as it is."""
    if not any(pace.frames for pace in paces.values()):
        return
    split = tasks[0].job.split
    video = contract.evaluated_videos(dataset, split)[0]
    height, width = dataset.read(split, video, dataset.frames(split, video)[0]).image.shape[:2]
    counted = {who: flops.frame(stages.model, stages.geometry, height, width) for who, stages in workers.items()}
    for task in tasks:
        if paces[task.folder].frames:
            own = [task.worker(member) for member in task.members]
            frame_flops = sum(counted[who].total(1 + task.job.stage) for who in own)
            members = [workers[who].model for who in own]
            evaluation_cost.write(task.folder, task.job, members, frame_flops, paces[task.folder])


def dirty(dataset: Dataset) -> str:
    """Return the values that the label map ignored, in a line; empty for clean masks and where none are counted."""
    counts = getattr(dataset, "dirty", {})
    named = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in sorted(counts.items()))
    return f"mask values that are not a class were ignored: {named}" if named else ""


def share(lengths: Mapping[str, int], rank: int, world: int) -> list[str]:
    """Return a rank's videos: all videos longest first, each to the rank with least to do. All ranks agree on it."""
    load = [0] * world
    mine = []
    for video in sorted(lengths, key=lambda video: (-lengths[video], video)):
        taker = load.index(min(load))
        load[taker] += lengths[video]
        if taker == rank:
            mine.append(video)
    return mine


def load(tasks: Sequence[Task], num_classes: int, device: torch.device) -> dict[Worker, Stages]:
    """Return every distinct member of the tasks with its trained weights; one set of weights a member and control."""
    folders = {member: task.folder.parent / member for task in tasks for member in task.members}
    workers = dict.fromkeys(task.worker(member) for task in tasks for member in task.members)
    wanted = sorted(workers, key=lambda who: who.member)
    kinds = dict.fromkeys((who.member, who.control) for who in wanted)
    models = {kind: controlled(model(folders[kind[0]], num_classes), kind[1]) for kind in kinds}
    return {who: Stages(models[who.member, who.control], who.geometry, who.precision, device) for who in wanted}


def controlled(model: Segmentor, control: str | None) -> Segmentor:
    """Return the model with a part of its decoder taken away. Raise UnfitError for a control the decoder has not."""
    decoder = model.decoder
    if control is not None:
        if control not in decoder.controls or decoder.control is not None:
            choices = ", ".join(decoder.controls) if decoder.control is None else f"none beside {decoder.control}"
            raise UnfitError(f"control {control}: this decoder has {choices or 'none'}; choose one of them")
        decoder.control = control
    return model


def model(folder: Path, num_classes: int) -> Segmentor:
    """Return a member's network with its weights; its folder's name is its fingerprint. Raise as `filled` does."""
    job = read_as(folder, TrainSpec)
    if job.fingerprint != folder.name:
        raise UnfitError(f"{shown(folder)}: belongs to the training {job.fingerprint}; move it back there")
    return filled(folder, job, num_classes)


def filled(folder: Path, job: TrainSpec, num_classes: int) -> Segmentor:
    """Return a training's network with the weights that lie beside its job.yaml.

    Raise UnfitError for weights that are damaged, another training's, or do not fit the job.
    """
    path = JobDir(folder).weights_file
    network = build.segmentor(job, num_classes, drawn=False)
    expected = network.state_dict()
    weights, origin = checkpoint.weights(folder)
    owner = origin.fingerprint or job.fingerprint
    if owner != job.fingerprint:
        raise UnfitError(
            f"{shown(path)}: belongs to the training {owner}, not to {job.fingerprint}; move it back there"
        )
    odd = sorted(name for name in expected.keys() | weights.keys() if shape(expected, name) != shape(weights, name))
    if odd:
        name = next((name for name in odd if name == "decoder.classifier.1.weight"), odd[0])
        raise UnfitError(
            f"{shown(path)}: does not fit its job with {num_classes} classes: {name} is {shape(weights, name)}, not "
            f"{shape(expected, name)} ({len(odd)} such); were the classes of the data changed, or the file exchanged?"
        )
    network.load_state_dict(weights)
    return network


def shape(state: Mapping[str, Tensor], name: str) -> str:
    """Return a tensor's shape for people."""
    return " × ".join(map(str, state[name].shape)) or "a number" if name in state else "absent"


def run_video(
    tasks: Sequence[Task],
    workers: Mapping[Worker, Stages],
    dataset: Dataset,
    split: str,
    video: str,
    device: torch.device,
    stop: Stop,
    truth: bool = True,
) -> dict[Path, Pace]:
    """Evaluate a video for all tasks that lack it: each frame is decoded once, each member encodes it once.

    `truth`: whether the split has labels at all. Return the pace of each task's predictions, which frames that are
    only shown to the members are not part of.
    """
    classes = len(dataset.classes)
    counts = {task.folder: Counts(classes, device, build.own_metrics(task.job, classes)) for task in tasks}
    paces = {task.folder: Pace() for task in tasks}
    keeping = any(task.job.evaluate.keep_masks for task in tasks)
    names = dataset.frames(split, video) if keeping else contract.evaluated(dataset, split, video)
    members = [workers[who] for who in dict.fromkeys(task.worker(member) for task in tasks for member in task.members)]
    flow, first = Flow(device), True
    middle = snapshots.middle(contract.labelled(dataset, split, video) or names)
    sources = list(dict.fromkeys(task.handed_in for task in tasks if task.handed_in is not None))
    starts = contract.starts(dataset, split, video)
    for name, frame in read_ahead(dataset, split, video, names):
        stop.check()
        if name in starts:
            for stages in workers.values():
                stages.start()
        image = torch.from_numpy(frame.image).to(device).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
        flow.take(frame.image)
        first = first or name in starts
        label = None if frame.label is None else label_tensor(frame.label).to(device)
        scored = label is not None or not truth
        if not scored and not keeping:
            for stages in members:
                stages.see(image)
            for count in counts.values():
                count.skip()
            first = True
            continue
        where = Path(video) / f"{name}.png"
        labelled = {source: labelled_frame(source, dataset, split, where, frame, scored) for source in sources}
        priors = {
            source: prior(source, where, other, len(dataset.classes)).to(device) for source, other in labelled.items()
        }
        for task, result in masks(tasks, workers, image, priors):
            counts[task.folder].add(result.mask, label)
            if scored:
                counts[task.folder].compare(result.mask, result.before, result.windows, result.exited)
                if task.job.metrics:
                    counts[task.folder].observe(scored_frame(frame, result, first, flow))
            paces[task.folder] = paces[task.folder].plus(1, result.seconds)
            saves_mask = not truth or (task.job.evaluate.keep_masks and (scored or task.handed_in not in GIVEN))
            if saves_mask or name == middle:
                jobs.ours(task.folder, task.job)()
            if name == middle:
                snapshots.sample(JobDir(task.folder).samples / where, result.mask, len(dataset.classes))
            if saves_mask:
                save_mask(JobDir(task.folder).masks / where, result.mask, len(dataset.classes))
        first = not scored  # metrics see labelled frames; the next one has no frame before it that they saw
    for task in tasks:
        counts[task.folder].save(task.file(video), jobs.ours(task.folder, task.job))
    return paces


def masks(
    tasks: Sequence[Task], workers: Mapping[Worker, Stages], image: Tensor, priors: Mapping[str, Tensor]
) -> Iterator[tuple[Task, Result]]:
    """Yield each task's result for the next frame: argmax of the sum of its members' probabilities.

    Each member iterates on its own mask; `priors` holds each P (H, W) that is handed in.
    """
    sums: dict[tuple[Path, int | str], Sum] = {}
    seconds = {task.folder: 0.0 for task in tasks}
    for who, stages in workers.items():  # sorted by member, as every task's members are
        asking = [task for task in tasks for member in task.members if task.worker(member) == who]
        if not asking:
            continue
        last = max(task.last for task in asking)
        sources = list(dict.fromkeys(task.handed_in for task in asking if task.handed_in is not None))
        predictions = stages.predict(image, last, [priors[source] for source in sources])
        for source, prediction in zip([*range(last + 1), *sources], predictions, strict=True):
            for task in asking:
                seconds[task.folder] += prediction.seconds if task.needs(source) else 0.0
                if source in (task.source, task.before):
                    key = task.folder, source
                    keep = len(task.members) > 1 or bool(task.job.metrics)
                    sums[key] = sums[key].add(prediction) if key in sums else Sum(prediction, keep)
    for task in tasks:
        whole = sums[task.folder, task.source]
        before = priors.get(str(task.source)) if task.before is None else sums[task.folder, task.before].mask()
        results = whole.mask(), before, whole.windows, whole.exited, seconds[task.folder]
        yield task, Result(*results, whole.probabilities)


def read_ahead(
    dataset: Dataset, split: str, video: str, names: Sequence[str] | None = None
) -> Iterator[tuple[str, Frame]]:
    """Yield frames of a video, all or those of some names; the next one is decoded while this one is looked at."""
    names = dataset.frames(split, video) if names is None else names
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(dataset.read, split, video, name) for name in names[:1]]
        for index, name in enumerate(names):
            frame = ahead.pop().result()
            ahead = [reader.submit(dataset.read, split, video, later) for later in names[index + 1 : index + 2]]
            yield name, frame


def save_mask(path: Path, mask: Tensor, num_classes: int) -> None:
    """Write a mask as the benchmark's server wants it: one channel, class indices from 0, 8 bits or 16 if they need."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.cpu().numpy().astype(contract.label_type(num_classes))).save(path)


def done(folder: Path) -> int:
    """Return the videos of an evaluation whose counts are written."""
    return len(JobDir(folder).video_files())
