"""Qualitative results: panels of a frame, its ground truth, each row's mask, and where two rows disagree.

Which videos: the best, the median and the worst by gain in mIoU, and a few that are always the same. A row's masks are
those that its evaluation kept (engine/snapshots: the middle frame of every video).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from harness.common.errors import HarnessError
from harness.config import input_digests
from harness.data.contract import VOID, Dataset, Label, void
from harness.plan.cell import Cell
from harness.plan.job import GIVEN
from harness.plan.plan import Experiment, Plan
from harness.results import metrics, records
from harness.results.palette import VOID_COLOUR, coloured, palette
from harness.results.table import signed

FIXED = 3  # videos that are shown whatever the gains are
TILE = 264  # pixels across
CAPTION = 22  # pixels down
COLUMNS = 4
RIGHT, WRONG, NEITHER = (0, 158, 115), (213, 94, 0), (240, 228, 66)  # who is right where two rows part
SCENE = 0.35  # of the frame is left under the differences

Pixels = NDArray[np.uint8]


class Pair(NamedTuple):
    """Two cells that are compared, video by video."""

    ours: Cell
    baseline: Cell


@dataclass(frozen=True)
class Panel:
    """One picture: `file` is its name, `title` says why this video, `alt` what is to be seen."""

    file: str
    title: str
    alt: str
    image: Image.Image
    classes: tuple[str, ...]  # that are in its ground truth, to explain the colours
    cells: tuple[str, ...]  # whose masks are its tiles, after the frame and its ground truth
    tile: tuple[int, int]  # pixels, width and height


def draw(plan: Plan, experiment: Experiment) -> list[Panel]:
    """Return the panels of the first seed; none where no gain is known, or the data is not at hand."""
    cells = [cell for seed, cell in experiment.cells if seed == experiment.cells[0][0]]
    done = [cell for cell in cells if plan.state(cell.job) == "done"]
    pair = compared(done)
    if pair is None:
        return []
    gains = gain_by_video(plan, pair)
    try:
        dataset = input_digests.build_dataset(experiment.config)
        split = pair.ours.job.split
        names = [video for video in dataset.videos(split) if video in gains]
        return [
            panel
            for number, (video, why) in enumerate(chosen(gains, names).items())
            if (panel := panel_of(plan, done, pair, dataset, split, video, why, number)) is not None
        ]
    except HarnessError:
        return []


def compared(done: Sequence[Cell]) -> Pair | None:
    """Return the last row with a baseline, and that: in Table 1 the ensemble and UPerNet; no row that is given P."""
    names = {cell.name: cell for cell in done}
    pairs = [Pair(cell, names[cell.over]) for cell in done if cell.over in names and cell.job.prior not in GIVEN]
    return pairs[-1] if pairs else None


def gain_by_video(plan: Plan, pair: Pair) -> dict[str, float]:
    """Return mIoU of a video less that of the baseline, in percent; a video without truth is left out."""
    ours, base = (records.read_evaluation(plan.directory(cell.job)).videos for cell in pair)
    gains = {video: 100 * (metrics.miou(ours[video]) - metrics.miou(base[video])) for video in ours if video in base}
    return {video: gain for video, gain in gains.items() if np.isfinite(gain)}


def chosen(gains: Mapping[str, float], names: Sequence[str]) -> dict[str, str]:
    """Return video -> why it is shown; each once."""
    if not names:
        return {}
    ranked = sorted(names, key=lambda video: (-gains[video], video))
    why = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    reasons: dict[str, str] = {}
    for word, video in why.items():
        reasons.setdefault(video, word)
    positions = np.linspace(0, len(names) - 1, min(FIXED, len(names))).round().astype(int)
    for position in positions.tolist():
        reasons.setdefault(names[position], "fixed")
    return {video: f"{word} ({signed(gains[video], 1)} points)" for video, word in reasons.items()}


def panel_of(
    plan: Plan, done: Sequence[Cell], pair: Pair, dataset: Dataset, split: str, video: str, why: str, number: int
) -> Panel | None:
    """Return the panel of a video; None where its evaluations kept no mask of it."""
    masks = {cell.name: mask for cell in done if (mask := saved_mask(plan.jobdir(cell.job).samples / video))}
    if pair.ours.name not in masks or pair.baseline.name not in masks:
        return None
    frames = {frame for frame, _ in masks.values()}
    if len(frames) > 1:
        return None
    (frame,) = frames
    image, truth = dataset.read(split, video, frame)
    shape = image.shape[:2]
    shown = [cell for cell in done if cell.name in masks]
    if truth is None or any(mask.shape != shape for _, mask in masks.values()):
        return None
    classes = len(dataset.classes)
    colours = palette(classes)
    ours, base = masks[pair.ours.name][1], masks[pair.baseline.name][1]
    mine, other = name(pair.ours), name(pair.baseline)
    title = f"{mine} vs. {other}: disagreement"
    tiles = [("frame", image), ("ground truth", coloured(truth, colours))]
    for cell in shown:
        labels = masks[cell.name][1]
        tiles.append((f"{name(cell)}  {score(truth, labels, classes)}", coloured(labels, colours)))
    tiles.append((title, disagreement(image, truth, ours, base, void(classes))))
    right, wrong = (int(((ours != base) & (truth != void(classes)) & (truth == mask)).sum()) for mask in (ours, base))
    alt = (
        f"Video {video}, frame {frame}: the frame, its ground truth, the masks of {', '.join(map(name, shown))}, "
        f"and where {mine} and {other} disagree: {mine} alone is correct in {right} pixels, {other} alone in {wrong} "
        f"of {truth.size}."
    )
    present = tuple(int(index) for index in np.unique(truth) if index < classes)
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in video)[:60]
    file = f"{number}-{why.split()[0]}-{stem}.png"
    return Panel(
        file,
        f"{why}: {video}, frame {frame} (points: {mine} over {other}, mIoU of the whole video)",
        alt,
        mosaic(tiles),
        classes=tuple(dataset.classes[i] for i in present),
        cells=tuple(cell.name for cell in shown),
        tile=tile_size(image),
    )


def name(cell: Cell) -> str:
    """Return the title of the table's first column."""
    return cell.label or cell.method


def saved_mask(folder: Path) -> tuple[str, Label] | None:
    """Return the frame and the mask that an evaluation kept of a video."""
    for path in sorted(folder.glob("*.png")):
        try:
            with Image.open(path) as picture:
                return path.stem, np.array(picture)
        except OSError:
            continue
    return None


def score(truth: Label, mask: Label, classes: int) -> str:
    """Return the frame's pixel accuracy."""
    valid = truth < classes
    return f"accuracy {100 * (truth[valid] == mask[valid]).mean():.0f}%" if valid.any() else ""


def disagreement(image: Pixels, truth: Label, ours: Label, base: Label, void: int = VOID) -> Pixels:
    """Return the frame in faint grey; where masks disagree, green: ours is correct, orange: the other, yellow: none."""
    grey = image.mean(axis=2, keepdims=True)
    scene: Pixels = (255 * (1 - SCENE) + SCENE * grey).repeat(3, axis=2).astype(np.uint8)
    differ = (ours != base) & (truth != void)
    scene[differ] = NEITHER
    scene[differ & (ours == truth)] = RIGHT
    scene[differ & (base == truth)] = WRONG
    scene[truth == void] = VOID_COLOUR
    return scene


def mosaic(tiles: Sequence[tuple[str, Pixels]]) -> Image.Image:
    """Return captioned tiles, COLUMNS a row; small frames are enlarged without smoothing, large ones reduced."""
    width, size = tiles[0][1].shape[1], tile_size(tiles[0][1])
    how = Image.Resampling.NEAREST
    rows = -(-len(tiles) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * (TILE + 8) - 8, rows * (size[1] + CAPTION + 6) - 6), "white")
    pen, letters = ImageDraw.Draw(whole), font()
    for index, (caption, pixels) in enumerate(tiles):
        left, top = corner(index, size[1])
        smooth = caption == "frame" and width > TILE
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS if smooth else how)
        whole.paste(picture, (left, top))
        pen.text((left, top - CAPTION + 3), cut_to_tile(caption, letters), fill=(40, 40, 40), font=letters)
    return whole


def tile_size(image: Pixels) -> tuple[int, int]:
    """Return a tile's width and height for a frame, in pixels."""
    height, width = image.shape[:2]
    return TILE, max(1, round(TILE * height / width))


def corner(index: int, height: int) -> tuple[int, int]:
    """Return the left and upper edge of a mosaic's tile below its caption; `height` is a tile's."""
    return index % COLUMNS * (TILE + 8), index // COLUMNS * (height + CAPTION + 6) + CAPTION


def cut_to_tile(caption: str, letters: Any) -> str:
    """Return a caption cut to its tile."""
    short = " ".join(caption.split())
    while letters.getlength(short) > TILE and len(short) > 1:
        short = short[:-2].rstrip() + "…"
    return short


def font(size: int = 13) -> Any:
    """Return DejaVu Sans from matplotlib's folder; matplotlib itself is not imported."""
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def save(panels: Sequence[Panel], folder: Path) -> list[dict[str, object]]:
    """Write every panel's PNG that is not there yet, and no other; returns what panels.json says of them.

    Raise OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in {*folder.glob("*.png")} - {folder / panel.file for panel in panels}:
        old.unlink()
    for panel in panels:
        if not shows(folder / panel.file, panel.image):
            panel.image.save(folder / panel.file)
    keys = ("file", "title", "alt", "classes", "cells", "tile")
    return [{key: getattr(panel, key) for key in keys} for panel in panels]


def shows(path: Path, image: Image.Image) -> bool:
    """Return whether a file holds an image, pixel by pixel; to read a PNG takes a fraction of compressing it."""
    try:
        with Image.open(path) as there:
            return (there.mode, there.size) == (image.mode, image.size) and there.tobytes() == image.tobytes()
    except (OSError, SyntaxError):  # absent or damaged
        return False
