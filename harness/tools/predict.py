"""Masks and an overlay video for a person's own video or folder of frames, from finished trainings.

A checkpoint is a finished training's directory (job.yaml and weights.safetensors); several are an ensemble, as in
Table 1's last row. Left in the folder:

    masks/NAME.png      palette indices, at the frame's own size      overlays/NAME.jpg   frame and mask, with a legend
    overlay.mp4         where the extra `video` is installed          state.pt            to go on from after a stop
    replaced/N/         masks and overlays of frames that have gone, or were others, when it was called again

Frames are known by name and pixels, checkpoints by their weights: what is the same is not predicted again, and all that
follows a changed frame is, since masks depend on the frames before.

Videos are decoded by ffmpeg (imageio-ffmpeg ships it): every frame that is in the file once, also where their rate
varies; the overlay has the mean rate, so that it lasts as long. A folder of frames needs nothing; frames are in time as
those of a data set are (harness.data.frame_order).
"""

import hashlib
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from harness.common.errors import UnfitError, UsageError
from harness.common.progress import SILENT, Progress
from harness.data.frame_order import in_time
from harness.data.manifest import add_pixels
from harness.data.pictures import IMAGES, list_pictures, read_image, shown
from harness.engine import build, checkpoint, evaluate, multistage, sliding_window
from harness.engine.multistage import Stages
from harness.jobdir.paths import JobDir
from harness.plan.job import digest
from harness.plan.spec import TrainSpec, read
from harness.report.qualitative import font
from harness.results.palette import palette
from models.contract import Features

OPACITY = 0.55
NAMED = 12  # classes in a legend at most, the largest first
EVERY = 25  # frames between two states
STATE_LIMIT = 2**29  # bytes; a larger state is not written, and a stopped prediction starts anew
RATE = 15.0  # frames a second of a folder's overlay

Pixels = NDArray[np.uint8]


class Shot(NamedTuple):
    """A frame and the name that its mask gets."""

    name: str
    image: Pixels  # (H, W, 3) RGB


@dataclass(frozen=True)
class Clip:
    """Frames in time, how many they are by their own account, and how many a second."""

    length: int
    rate: float
    shots: Callable[[], Iterator[Shot]]


@dataclass(frozen=True)
class Done:
    """A finished prediction; `new` frames were predicted now, `cut` says where the source broke off."""

    folder: Path
    frames: int
    new: int
    overlay: Path
    cut: str = ""
    replaced: int = 0  # masks that were moved away


class Model(NamedTuple):
    """An ensemble's members at work, what they call their classes, and what their masks depend on."""

    members: tuple[Stages, ...]
    classes: tuple[str, ...]
    key: str
    weights: str


class State(NamedTuple):
    """A prediction's progress: frames by name, each with the digest of its pixels, and the members' states."""

    weights: str
    frames: dict[str, str]
    members: list[dict[str, Any]]


def predict(
    checkpoints: Sequence[Path],
    source: Path,
    folder: Path,
    stage: int = 0,
    progress: Progress = SILENT,
) -> Done:
    """Predict `source` into `folder`; `stage` is how often P is replaced by the mask before it.

    Raise UsageError for checkpoints that do not belong together, UnfitError for files that cannot be used.
    """
    clip = open_clip(source)
    model = load(checkpoints, stage)
    colours = palette(len(model.classes))
    for name in ("masks", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    state, aside = resume(folder, model), Aside(folder)
    if state is not None and state.weights != model.weights:
        aside.move(name for name in state.frames)
        state = None
    before = {} if state is None else state.frames
    start, shots = begin(folder, clip, model, state)
    frames = dict(before) if start else {}
    if not start:
        (folder / "state.pt").unlink(missing_ok=True)  # it would say too much if this call is stopped
    cut, task = "", progress.task("", "frames")
    try:
        for shot in shots:
            pixels = digest_of(shot)
            if before.get(shot.name, pixels) != pixels:
                aside.move([shot.name])
            save(folder, shot, segment(model, shot.image, stage), colours, model.classes)
            frames[shot.name] = pixels
            if len(frames) % EVERY == 0:
                keep(folder, model, frames)
            task.update(len(frames), max(clip.length, len(frames)))
    except UnfitError as error:
        if not frames:
            raise
        cut = str(error)
    if not frames:
        raise UnfitError(f"{shown(source)}: contains no readable frame")
    keep(folder, model, frames)
    if not cut:
        aside.move(path.stem for path in sorted((folder / "masks").glob("*.png")) if path.stem not in frames)
    return Done(folder, len(frames), len(frames) - start, film(folder, clip.rate), cut, aside.masks)


class Aside:
    """Moves masks and overlays that are no longer those of a frame into replaced/N, N the next free number."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.masks = folder, 0
        taken = [int(path.name) for path in (folder / "replaced").glob("*") if path.name.isdecimal()]
        self.target = folder / "replaced" / str(max(taken, default=0) + 1)

    def move(self, names: Iterable[str]) -> None:
        """Move the files of frames, where there are any."""
        for name in names:
            for path in (self.folder / "masks" / f"{name}.png", self.folder / "overlays" / f"{name}.jpg"):
                if path.exists():
                    target = self.target / path.parent.name / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
                    self.masks += path.suffix == ".png"


def digest_of(shot: Shot) -> str:
    """Return a frame's name and pixels as one digest."""
    digest = hashlib.sha256()
    add_pixels(digest, shot.name, shot.image)
    return digest.hexdigest()


def begin(folder: Path, clip: Clip, model: Model, state: State | None) -> tuple[int, Iterator[Shot]]:
    """Return the number of frames that are done, if all of them are the same, and the others; members set back."""
    if state is None or not all((folder / "masks" / f"{name}.png").is_file() for name in state.frames):
        return 0, clip.shots()
    shots = clip.shots()
    try:
        for name, pixels in state.frames.items():
            shot = next(shots, None)
            if shot is None or (shot.name, digest_of(shot)) != (name, pixels):
                return 0, clip.shots()
    except UnfitError:  # breaks off earlier than it did
        return 0, clip.shots()
    for member, values in zip(model.members, state.members, strict=True):
        member.load_state_dict(values)
    return len(state.frames), shots


def open_clip(source: Path) -> Clip:
    """Return a folder of pictures in time, or a video. Raise UnfitError."""
    if source.is_dir():
        paths = list_pictures(source)
        if not paths:
            raise UnfitError(f"{shown(source)}: contains no image ({', '.join(IMAGES)})")
        names = in_time(paths)
        return Clip(len(names), RATE, lambda: (Shot(name, read_image(paths[name])) for name in names))
    if not source.is_file():
        raise UnfitError(f"{shown(source)}: no such video or folder of frames")
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UnfitError(
            f"{shown(source)}: videos need ffmpeg: pip install 'memory-vsp-harness[video]', or give frames"
        )
    return video(source)


def video(source: Path) -> Clip:
    """Return a video as ffmpeg decodes it. Raise UnfitError where it cannot be opened."""
    import imageio_ffmpeg

    try:
        reader = imageio_ffmpeg.read_frames(str(source), pix_fmt="rgb24")
        facts = next(reader)
        reader.close()
    except Exception as error:
        raise UnfitError(f"{shown(source)}: not a video that ffmpeg can open; is it complete?") from error
    length, seconds, end, damaged = timing(source)
    cut = damaged or end < 0.9 * facts["duration"] - 1 / (facts["fps"] or RATE)  # the file says that it is longer

    def shots() -> Iterator[Shot]:
        count = 0
        # else ffmpeg doubles and drops frames until their rate is constant
        passed = ["-fps_mode", "passthrough"]
        frames = imageio_ffmpeg.read_frames(str(source), pix_fmt="rgb24", output_params=passed)
        try:
            width, height = next(frames)["size"]
            for count, data in enumerate(frames, 1):
                image = np.frombuffer(data, np.uint8).reshape(height, width, 3)
                yield Shot(f"{count:08d}", image.copy())
        except (OSError, RuntimeError, StopIteration) as error:
            raise UnfitError(f"{shown(source)}: breaks off after {count} frames; is the file complete?") from error
        if cut or count < 0.9 * length - 1:
            whole = f"about {max(length, round(facts['duration'] * facts['fps']))}"
            raise UnfitError(f"{shown(source)}: {count} of {whole} frames could be read; is the file complete?")

    return Clip(length, length / seconds if seconds > 0 else float(facts["fps"]) or RATE, shots)


class Timing(NamedTuple):
    """Of the packets in a video's file, none of which is decoded."""

    frames: int
    seconds: float  # from the first frame to the end of the last
    end: float  # of picture and sound, seconds
    damaged: bool  # ffmpeg met the file's end inside a packet


def timing(source: Path) -> Timing:
    """Return the frames and times of a video."""
    import imageio_ffmpeg

    words = ["-v", "warning", "-i", str(source), "-map", "0:v:0", "-map", "0:a?", "-c", "copy", "-f", "framecrc", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, errors="replace", check=False)
    listed, damaged = done.stdout, re.search("partial file|ended prematurely|packet corrupt", done.stderr, re.I)
    units = {stream: Fraction(unit) for stream, unit in re.findall(r"^#tb (\d+): (\d+/\d+)", listed, re.M)}
    spans: dict[str, list[tuple[Fraction, Fraction]]] = {stream: [] for stream in ("0", *units)}
    for stream, begin, lasts in re.findall(r"^(\d+), +-?\d+, +(-?\d+), +(\d+),", listed, re.M):
        start = int(begin) * units[stream]
        spans[stream].append((start, start + int(lasts) * units[stream]))
    ends = {stream: max(span)[1] if span else Fraction(0) for stream, span in spans.items()}  # of what begins last
    first = min(spans["0"])[0] if spans["0"] else Fraction(0)
    return Timing(len(spans["0"]), float(ends["0"] - first), float(max(ends.values())), damaged is not None)


def load(checkpoints: Sequence[Path], stage: int) -> Model:
    """Return the trainings as one ensemble, as their own evaluation would set them up. Raise UsageError, UnfitError."""
    if stage < 0:
        raise UsageError(f"--stage {stage}: must not be negative")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    members, fingerprints, weights = [], [], []
    names: list[tuple[str, ...]] = []
    for folder in checkpoints:
        job = read(folder)
        if not isinstance(job, TrainSpec):
            raise UsageError(
                f"{shown(folder)}: is not a training; give directories of trainings, as listed by `harness plan`"
            )
        classes = checkpoint.origin(folder).classes or tuple(build.dataset(job.data, job.plugins).classes)
        if names and classes != names[0]:
            raise UsageError(f"{shown(folder)}: was trained on other classes than {shown(checkpoints[0])}")
        network = evaluate.filled(folder, job, len(classes))  # wherever it was copied to
        members.append(Stages(network, sliding_window.geometry(job.evaluate), job.precision, device))
        names.append(classes)
        fingerprints.append(job.fingerprint)
        weights.append(checkpoint.sha256(JobDir(folder).weights_file))
    return Model(tuple(members), names[0], digest([sorted(fingerprints), stage]), digest(sorted(weights)))


def segment(model: Model, image: Pixels, stage: int) -> Pixels:
    """Return the ensemble's mask of the next frame: argmax of the sum of its members' probabilities.  # (H, W)"""
    device = model.members[0].device
    picture = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    total: Any = None
    for member in model.members:
        *_, last = member.predict(picture, stage)
        total = last.probabilities if total is None else total + last.probabilities
    return sliding_window.labels(total).to(torch.uint8).cpu().numpy()


def save(folder: Path, shot: Shot, mask: Pixels, colours: Pixels, classes: Sequence[str]) -> None:
    """Write a frame's mask and overlay, the mask last: it says that the frame is done."""
    overlay(shot.image, mask, colours, classes).save(folder / "overlays" / f"{shot.name}.jpg", quality=90)
    picture = Image.fromarray(mask)
    picture.putpalette(colours.tobytes())
    written = folder / "masks" / f".{shot.name}.tmp"
    picture.save(written, format="png")
    written.replace(folder / "masks" / f"{shot.name}.png")


def overlay(image: Pixels, mask: Pixels, colours: Pixels, classes: Sequence[str]) -> Image.Image:
    """Return the frame under its mask's colours, and below it a legend of the classes that it holds; sides are even."""
    blended = (1 - OPACITY) * image + OPACITY * colours[mask]
    height, width = mask.shape
    width, height = max(2, width - width % 2), max(2, height - height % 2)  # as video codecs want it
    strip = 2 * 11 if width < 320 else 2 * 22
    whole = Image.new("RGB", (width, height + strip), "white")
    whole.paste(Image.fromarray(blended.astype(np.uint8)[:height, :width]))
    pen, letters = ImageDraw.Draw(whole), font(9 if width < 320 else 14)
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    left, top, line = 4, height, strip // 2
    for index in [int(i) for i in np.argsort(-counts)[:NAMED] if counts[i]]:
        need = line + letters.getlength(classes[index]) + 10
        if left + need > width and left > 4:
            left, top = 4, top + line
            if top + line > height + strip:
                break
        pen.rectangle((left, top + 3, left + line - 7, top + line - 4), fill=tuple(colours[index].tolist()))
        pen.text((left + line - 3, top + 1), classes[index], fill="black", font=letters)
        left += round(need)
    return whole


def keep(folder: Path, model: Model, frames: dict[str, str]) -> None:
    """Write the members' states after these frames, by rename; not where they are too large."""
    states = [member.state_dict() for member in model.members]
    if multistage.nbytes(states) > STATE_LIMIT:
        return
    written = folder / f".state.{os.getpid()}.tmp"
    torch.save({"key": model.key, "weights": model.weights, "frames": frames, "state": states}, written)
    written.replace(folder / "state.pt")


def resume(folder: Path, model: Model) -> State | None:
    """Return the state that an earlier call has kept; None where it has kept none.

    Raise UsageError for another's folder, UnfitError for a state that cannot be read.
    """
    path = folder / "state.pt"
    if not path.is_file():
        return None
    try:
        with torch.serialization.safe_globals([Features]):
            saved = torch.load(path, map_location=model.members[0].device, weights_only=True)
        key, state = saved["key"], State(saved["weights"], saved["frames"], saved["state"])
    except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError) as error:
        raise UnfitError(f"{shown(path)}: is not the state of a prediction; remove it to start over") from error
    if key != model.key:
        raise UsageError(f"{shown(folder)}: contains masks of other checkpoints or stages; choose another --out")
    return state


def film(folder: Path, rate: float) -> Path:
    """Write overlay.mp4 of the overlays that have the first one's size; return their folder without ffmpeg."""
    paths = sorted((folder / "overlays").glob("*.jpg"))
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return folder / "overlays"
    import imageio_ffmpeg

    first = read_image(paths[0])
    target, size = folder / "overlay.mp4", (first.shape[1], first.shape[0])
    writer = imageio_ffmpeg.write_frames(str(target), size, fps=rate, macro_block_size=2, quality=7)
    writer.send(None)
    for path in paths:
        image = read_image(path)
        same = image.shape == first.shape
        writer.send(image if same else np.asarray(Image.fromarray(image).resize(size)))
    writer.close()
    return target
