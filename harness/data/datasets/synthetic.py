"""Seeded videos of moving shapes, made on the fly: the data set that is always there.

It was built to have what the method uses, and shows nothing about real video. Classes come in pairs of nearly one
colour that differ in the direction of their stripes, upright or level, so that mirroring keeps them. A class looks
the same in every video (what a data-set level memory can learn), but in any one frame an object may fade towards the
colour of its pair, where only the frames beside it, or the rest of the scene, tell which of the two it is (what
temporal attention can use). Objects move, bounce and occlude one another; brightness flickers; every pixel has noise.
Pixels between two regions are void. Like VSPW's, the test split has no labels.

Four options make a control of it, on which what time has to give is known. With `fade=frame` all of a frame
fades at once, wholly, so that nothing in it tells a pair's classes apart; with `apart` a video has one class of each
pair, so that any other of its frames does. With `fade=video` a video's frames all fade or none does: each by itself
looks as it does with `fade=frame`, and the others have nothing to add. `hue` parts a pair's colours as well, which are
learnt in fewer steps than stripes.

Every frame is a function of the options, the split, the video and its number: not of the order of access.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.common import ranges
from harness.common.errors import UnfitError, UsageError
from harness.data.contract import VOID, Frame

VERSION = 1

SPLITS = ("train", "val", "test")
LOOK, VIDEO, FRAME = 0, 1, 2  # streams of random numbers
STRIPES = 40.0  # amplitude, grey levels
FADE_CHANCE = 0.35


@dataclass(frozen=True)
class Config:
    """The size, motion and difficulty of the videos."""

    classes: int = field(default=8, metadata={"range": "[2, 254]"})
    train_videos: int = field(default=32, metadata={"range": "[0, inf)"})
    val_videos: int = field(default=24, metadata={"range": "[0, inf)"})
    test_videos: int = field(default=8, metadata={"range": "[0, inf)"})
    frames: int = field(default=8, metadata={"range": "[1, 9999]"})  # a video
    height: int = field(default=64, metadata={"range": "[8, 4096]"})
    width: int = field(default=96, metadata={"range": "[8, 4096]"})
    objects: int = field(default=5, metadata={"range": "[0, 200]"})  # a video
    noise: float = field(default=12.0, metadata={"range": "[0, inf)"})  # standard deviation, grey levels
    seed: int = field(default=0, metadata={"range": "[0, inf)"})
    fade: Literal["frame", "video"] | None = None  # what fades together; None: each object for itself, not wholly
    # of an object, frame or video; None: 0.35
    fade_chance: float | None = field(default=None, metadata={"range": "[0, 1]"})
    apart: bool | None = None  # whether a video has one class of each pair only
    # degrees between a pair's colours; None: a tint of 9 grey levels
    hue: float | None = field(default=None, metadata={"range": "[-360, 360]"})


class Appearance(NamedTuple):
    """Colours and stripes of K classes, the same in all videos of a data set."""

    colour: NDArray[np.float32]  # (K, 3)
    faded: NDArray[np.float32]  # (K, 3)   the mean of the class's pair
    wave: NDArray[np.float32]  # (K, 2)   radians a pixel along y and x


class Video(NamedTuple):
    """A video's classes, shapes and motion; instances 0 and 1 are the parts of the background, n objects follow."""

    classes: NDArray[np.intp]  # (n + 2,)
    start: NDArray[np.float64]  # (n, 2)   centre at frame 0, y and x in pixels
    velocity: NDArray[np.float64]  # (n, 2)   pixels a frame
    radius: NDArray[np.float64]  # (n, 2)   pixels
    square: NDArray[np.bool_]  # (n,)   a rectangle, else an ellipse
    horizon: NDArray[np.float32]  # (W,)   row where the background changes
    faded: bool  # with fade=video


class Dataset:
    """Videos of moving shapes (harness.data.contract.Dataset). Raises UsageError for options that make none."""

    def __init__(self, config: Config) -> None:
        check(config)
        self.config = config
        self.classes = tuple(f"{'level' if k % 2 else 'upright'}_{k // 2}" for k in range(config.classes))

    def videos(self, split: str) -> tuple[str, ...]:
        """Return the names of the split's videos."""
        return tuple(f"{split}_{index:04d}" for index in range(self.planned(split)))

    def frames(self, split: str, video: str) -> tuple[str, ...]:
        """Return the numbers of the video's frames."""
        self._index(split, video)
        return tuple(f"{time:04d}" for time in range(self.config.frames))

    def read(self, split: str, video: str, frame: str) -> Frame:
        """Return the image (H, W, 3) and label (H, W) in 0..K-1 and 255; the label is None in the test split."""
        index = self._index(split, video)
        if not frame.isdecimal() or int(frame) >= self.config.frames:
            raise UnfitError(f"synthetic video {video} has no frame '{frame}'")
        drawn = make_frame(self.config, SPLITS.index(split), index, int(frame))
        return Frame(drawn.image, None) if split == "test" else drawn

    def digest(self, split: str) -> str | None:
        """Return None: the options say what the data is."""
        self.planned(split)
        return None

    def unit(self, video: str) -> str:
        """Return the video: each is made for itself."""
        return video

    def planned(self, split: str) -> int:
        """Return the number of the split's videos."""
        if split not in SPLITS:
            raise UsageError(f"no split '{split}': synthetic has {', '.join(SPLITS)}")
        return int(getattr(self.config, f"{split}_videos"))

    def _index(self, split: str, video: str) -> int:
        number = video.removeprefix(f"{split}_")
        if not number.isdecimal() or not int(number) < self.planned(split):
            raise UnfitError(f"synthetic's {split} split has no video '{video}'")
        return int(number)


def check(config: Config) -> None:
    """Raise UsageError for an option out of its range."""
    ranges.check(Config, vars(config), "data.synthetic.")
    if config.apart and (config.classes % 2 or config.classes < 4):
        raise UsageError(f"data.synthetic.classes={config.classes}: with apart, must be even and at least 4")


@lru_cache(maxsize=8)
def make_appearance(classes: int, seed: int, apart: float | None = None) -> Appearance:
    """Return the colours and stripes of K classes: a pair shares hue, nearly colour, and pitch, in two directions."""
    rng = np.random.default_rng([seed, LOOK, 0, 0, 0])
    index = np.arange(classes)
    pair, side = index // 2, index % 2
    turn = 2 * np.pi * (pair / ((classes + 1) // 2) + rng.uniform())
    sign = np.where(side == 0, 1, -1)  # (K,)
    hue = colour(turn)  # (K, 3)
    tint = sign[:, None] * np.array([9.0, 0.0, -9.0])  # (K, 3)
    if apart is not None:
        tint = colour(turn + sign * np.radians(apart / 2)) - hue
    pitch = 2 * np.pi / rng.uniform(5, 9, (classes + 1) // 2)[pair]  # radians a pixel
    wave = np.stack([side, 1 - side], 1) * pitch[:, None]
    return Appearance((hue + tint).astype(np.float32), hue.astype(np.float32), wave.astype(np.float32))


def colour(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours of angles on the circle of hues, in grey levels.  # (K,) radians -> (K, 3)"""
    return 128 + 75 * np.cos(turn[:, None] - 2 * np.pi / 3 * np.arange(3))


@lru_cache(maxsize=256)
def make_video(config: Config, split: int, index: int) -> Video:
    """Draw a video's classes, shapes and motion."""
    rng = np.random.default_rng([config.seed, VIDEO, split, index, 0])
    n, size = config.objects, np.array([config.height, config.width])
    if config.apart:
        several = 2 * np.arange(config.classes // 2) + rng.integers(2, size=config.classes // 2)  # one of each pair
        classes = np.concatenate([rng.choice(several, 2, replace=False), rng.choice(several, n)])
    else:
        back = rng.choice(config.classes, 2, replace=False)
        classes = np.concatenate([back, rng.integers(config.classes, size=n)])
    start, velocity = rng.uniform(0, size, (n, 2)), rng.normal(0, 0.035, (n, 2)) * size.min()
    radius = rng.uniform(0.12, 0.3, (n, 2)) * size.min()
    square = rng.random(n) < 0.5
    columns = np.arange(config.width) / config.width
    sway = 0.08 * np.sin(2 * np.pi * (columns * rng.uniform(0.5, 2) + rng.uniform()))
    horizon = (config.height * (rng.uniform(0.35, 0.65) + sway)).astype(np.float32)
    faded = config.fade == "video" and bool(rng.random() < chance(config))
    return Video(classes, start, velocity, radius, square, horizon, faded)


def make_frame(config: Config, split: int, index: int, time: int) -> Frame:
    """Draw a frame: the instances in their order, then their appearance in this frame, then noise."""
    rng = np.random.default_rng([config.seed, FRAME, split, index, time])
    appearance, video = make_appearance(config.classes, config.seed, config.hue), make_video(config, split, index)
    which, origin = layout(config, video, time)
    n = len(video.classes)
    if config.fade is None:
        fade = np.where(rng.random(n) < chance(config), rng.uniform(0.7, 1, n), 0).astype(np.float32)[:, None]
    else:
        whole = rng.random() < chance(config) if config.fade == "frame" else video.faded
        fade = np.full((n, 1), whole, np.float32)
    light = rng.uniform(0.85, 1.15, (n, 1)).astype(np.float32)
    own, mixed = appearance.colour[video.classes], appearance.faded[video.classes]
    shown = (own + fade * (mixed - own)) * light  # (n, 3)
    wave = appearance.wave[video.classes]  # (n, 2)
    shift = (wave * origin).sum(1)
    rows, columns = np.arange(config.height, dtype=np.float32), np.arange(config.width, dtype=np.float32)
    phase = wave[:, 0][which] * rows[:, None] + wave[:, 1][which] * columns - shift[which]  # (H, W)
    stripes = np.sin(phase) * (STRIPES * (1 - fade[:, 0]))[which]
    image = shown[which]  # (H, W, 3)
    image += stripes[..., None]
    image += np.float32(config.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return Frame(pixels, with_borders(video.classes.astype(np.uint8)[which]))


def chance(config: Config) -> float:
    """Return the probability that an object, frame or video fades."""
    return FADE_CHANCE if config.fade_chance is None else config.fade_chance


def layout(config: Config, video: Video, time: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the topmost instance at every pixel (H, W), and where each instance's stripes are anchored (n + 2, 2)."""
    rows, columns = np.arange(config.height)[:, None], np.arange(config.width)
    which = (rows > video.horizon).astype(np.uint8)  # (H, W)
    size = np.array([config.height, config.width])
    swing = np.mod(video.start + video.velocity * time, 2 * size)
    centres = np.minimum(swing, 2 * size - swing)  # objects bounce off the frame's edges
    for number, (centre, radius, square) in enumerate(zip(centres, video.radius, video.square, strict=True)):
        top, left = np.maximum(0, np.floor(centre - radius)).astype(int)
        bottom, right = np.ceil(centre + radius).astype(int) + 1
        y = np.abs(rows[top:bottom] - centre[0]) / radius[0]
        x = np.abs(columns[left:right] - centre[1]) / radius[1]
        inside = np.maximum(y, x) <= 1 if square else y**2 + x**2 <= 1
        which[top:bottom, left:right][inside] = number + 2
    return which, np.concatenate([np.zeros((2, 2)), centres]).astype(np.float32)


def with_borders(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the label with void at pixels whose right or lower neighbour is of another class.  # (H, W)"""
    marked = label.copy()
    marked[:-1][label[:-1] != label[1:]] = VOID
    marked[:, :-1][label[:, :-1] != label[:, 1:]] = VOID
    return marked
