"""Evaluation of models and ensembles: one confusion matrix a video, each frame read once for all jobs of a launch.

No collective is used. Each rank takes whole videos, longest first, and writes videos/<video>.npz of every job by
rename; a video whose file is there is not done again. A split without labels also leaves its masks, in
masks/<video>/<frame>.png. Every split leaves the mask of each video's middle frame, in samples/.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from harness.core.data import Dataset, Frame
from harness.core.errors import UnfitError
from harness.engine import build, inference, jobs, keepsakes, runtime
from harness.engine.counts import Counts
from harness.engine.inference import Geometry
from harness.engine.runtime import Rank, Stop
from harness.engine.stages import Stages

VERSION = 1


class Worker(NamedTuple):
    """Who computes what: a member under a geometry and a precision; tasks that need the same share it."""

    member: str
    geometry: Geometry
    precision: str


class Task(NamedTuple):
    """One evaluation job of a launch."""

    folder: Path
    job: dict[str, Any]
    members: tuple[str, ...]
    stage: int
    geometry: Geometry

    def worker(self, member: str) -> Worker:
        """Who computes a member's part of it."""
        return Worker(member, self.geometry, self.job["precision"])

    def file(self, video: str) -> Path:
        """Where a video's counts lie."""
        return self.folder / "videos" / f"{video}.npz"


def task(folder: Path) -> Task:
    """A job directory as a task. Raises UnfitError where job.yaml cannot be read or a member has no weights."""
    job = jobs.read(folder)
    for member in job["members"]:
        if not (folder.parent / member / "weights.safetensors").is_file():
            raise UnfitError(f"member {member} has no weights: its training has not finished; train it first")
    how = job["evaluate"]
    window = how.get("window") or jobs.read(folder.parent / job["members"][0])["train"]["crop"]
    geometry = inference.geometry(window, how.get("stride"), how.get("short_side"), job["scales"], job["flip"])
    return Task(folder, job, tuple(job["members"]), job["stage"], geometry)


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
    for one in tasks:
        runtime.check_precision(rank.device, one.job["precision"])
    dataset, split = build.dataset(job), job["split"]
    videos = dataset.videos(split)
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
        for video in share(lengths, rank.rank, rank.world):
            stop.check()
            lacking = [one for one in tasks if not one.file(video).exists()]
            if lacking:
                run_video(lacking, workers, dataset, split, video, rank.device, stop)
            for folder, journal in journals.items():
                journal.write("progress", step=done(folder), values={})
        if found := dirty(dataset):
            for journal in journals.values():
                journal.write("log", message=found)
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
    """Every distinct member of the tasks with its trained weights; one set of weights a member."""
    folders = {member: one.folder.parent / member for one in tasks for member in one.members}
    models = {}
    for member, folder in sorted(folders.items()):
        model = build.segmentor(jobs.read(folder), num_classes)
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        models[member] = model
    found = dict.fromkeys(one.worker(member) for one in tasks for member in one.members)
    wanted = sorted(found, key=lambda who: who.member)
    return {who: Stages(models[who.member], who.geometry, who.precision, device) for who in wanted}


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
    middle = keepsakes.middle(dataset.frames(split, video))
    for stages in workers.values():
        stages.start()
    for name, frame in read_ahead(dataset, split, video):
        stop.check()
        image = torch.from_numpy(frame.image).to(device).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
        label = None if frame.label is None else torch.from_numpy(frame.label).to(device)
        for one, mask in masks(tasks, workers, image):
            counts[one.folder].add(mask, label)
            if name == middle:
                keepsakes.sample(one.folder / "samples" / video / f"{name}.png", mask, len(dataset.classes))
            if label is None:
                save_mask(one.folder / "masks" / video / f"{name}.png", mask)
    for one in tasks:
        counts[one.folder].save(one.file(video), jobs.ours(one.folder, one.job))


def masks(tasks: Sequence[Task], workers: Mapping[Worker, Stages], image: Tensor) -> Iterator[tuple[Task, Tensor]]:
    """Each task's mask (H, W) of the next frame: argmax of the sum of its members' probabilities (science §6)."""
    totals: dict[Path, Tensor] = {}
    for who, stages in workers.items():  # sorted by member, as every task's members are
        asking = [one for one in tasks for member in one.members if one.worker(member) == who]
        if not asking:
            continue
        for stage, probabilities in enumerate(stages.probabilities(image, max(one.stage for one in asking))):
            for one in asking:
                if one.stage == stage:
                    total = totals.get(one.folder)
                    totals[one.folder] = probabilities if total is None else total + probabilities
    for one in tasks:
        yield one, inference.labels(totals[one.folder])


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
    return len(list((folder / "videos").glob("*.npz")))
