"""Small made files in the formats of public data sets: names, folders, picture modes and numbers as theirs."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from harness.config import input_digests
from harness.config.compose import compose

CITYSCAPES = {  # city -> sequence -> frames of the snippets
    "train": {"aachen": {0: [0], 1: [0]}, "hamburg": {0: [42, 600]}},  # hamburg: one long sequence, two snippets
    "val": {"frankfurt": {0: [275], 1: [1]}, "munster": {4: [0]}},
    "test": {"berlin": {2: [0]}},
}
SNIPPET, LABELLED = 30, 19


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as the picture that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def noise(rng: np.random.Generator, size: tuple[int, int] = (16, 32)) -> np.ndarray:
    """Return an image of noise."""
    return rng.integers(0, 256, (*size, 3), np.uint8)


def blocks(rng: np.random.Generator, values: list[int], size: tuple[int, int] = (16, 32)) -> np.ndarray:
    """Return a mask of blocks of 4 pixels with some of the values."""
    coarse = rng.choice(values, (size[0] // 4, size[1] // 4))
    return coarse.repeat(4, 0).repeat(4, 1)


def make_cityscapes(root: Path) -> Path:
    """Write snippets of 30 frames, of which frame 19 has labelIds (8 bits) and instanceIds (16 bits)."""
    rng = np.random.default_rng(0)
    for split, cities in CITYSCAPES.items():
        for city, sequences in cities.items():
            for sequence, firsts in sequences.items():
                for first in firsts:
                    for time in range(first, first + SNIPPET):
                        name = f"{city}_{sequence:06d}_{time:06d}"
                        image = root / "leftImg8bit_sequence" / split / city / f"{name}_leftImg8bit.png"
                        save(image, noise(rng))
                    name = f"{city}_{sequence:06d}_{first + LABELLED:06d}_gtFine"
                    ids = blocks(rng, [1, 2, 3] if split == "test" else list(range(34)))
                    folder = root / "gtFine" / split / city
                    save(folder / f"{name}_labelIds.png", ids.astype(np.uint8))
                    instances = np.where(ids >= 24, 1000 * ids + rng.integers(0, 20, ids.shape), ids)
                    save(folder / f"{name}_instanceIds.png", instances.astype(np.uint16))
                    save(folder / f"{name}_color.png", noise(rng))
                    (folder / f"{name}_polygons.json").write_text(json.dumps({"objects": []}))
    return root


def make_kitti_step(root: Path) -> Path:
    """Write sequences whose maps hold the class in red and the instance in green and blue; none for test."""
    rng = np.random.default_rng(1)
    for split, sequences in {"train": (0, 1), "val": (2, 6), "test": (0,)}.items():
        for sequence in sequences:
            for time in range(4):
                place = f"{split}/{sequence:04d}/{time:06d}.png"
                save(root / "images" / place, noise(rng))
                if split != "test":
                    classes, number = blocks(rng, [*range(19), 255]), rng.integers(0, 600, (16, 32))
                    save(
                        root / "panoptic_maps" / place,
                        np.stack([classes, number // 256, number % 256], 2).astype(np.uint8),
                    )
    return root


def make_vipseg(root: Path) -> Path:
    """Write videos of their own sizes, panoptic masks of 16 bits, and the three lists."""
    rng = np.random.default_rng(2)
    videos = {"train": ["1_-t1", "0_ab"], "val": ["9_v"], "test": ["5_t"]}
    for split, names in videos.items():
        (root / f"{split}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for index, video in enumerate(names):
            size = (16, 32 + 8 * index)
            for time in (4, 5, 6):
                save(root / "imgs" / video / f"{time:08d}.jpg", noise(rng, size))
                mask = blocks(rng, [0, 1, 61, 124, 6100, 6101, 4900, 12400, 12407], size)
                save(root / "panomasks" / video / f"{time:08d}.png", mask.astype(np.uint16))
    (root / "panoVIPSeg_categories.json").write_text("[]")
    return root


CAMVID = {  # recording -> name of a frame by its number, numbers
    "0006R0": ("f{:05d}", [930, 960, 990]),
    "0016E5": ("{:05d}", [390, 420, 901, 931, 7920, 7959, 7961, 8001, 8159, 8190]),
    "0001TP": ("{:06d}", [6690, 8040, 8520, 8550, 8610, 9990, 10380]),
    "Seq05VD": ("f{:05d}", [0, 30, 60]),
}
COLOURS = [
    (64, 128, 64), (192, 0, 128), (0, 128, 192), (0, 128, 64), (128, 0, 0), (64, 0, 128), (64, 0, 192), (192, 128, 64),
    (192, 192, 128), (64, 64, 128), (128, 0, 192), (192, 0, 64), (128, 128, 64), (192, 0, 192), (128, 64, 64),
    (64, 192, 128), (64, 64, 0), (128, 64, 128), (128, 128, 192), (0, 0, 192), (192, 128, 128), (128, 128, 128),
    (64, 128, 192), (0, 0, 64), (0, 64, 64), (192, 64, 128), (128, 128, 0), (192, 128, 192), (64, 0, 64), (192, 192, 0),
    (0, 0, 0), (64, 192, 0),
]  # fmt: skip


def make_camvid(root: Path) -> Path:
    """Write stills and their colour masks, all in two folders."""
    rng = np.random.default_rng(3)
    for recording, (name, numbers) in CAMVID.items():
        for number in numbers:
            frame = f"{recording}_{name.format(number)}"
            save(root / "701_StillsRaw_full" / f"{frame}.png", noise(rng))
            index = blocks(rng, list(range(32)))
            save(root / "LabeledApproved_full" / f"{frame}_L.png", np.array(COLOURS, np.uint8)[index])
    return root


def preset(name, root, *words):
    config = compose(name, [f"data.folder.root={root}", *words])
    return config, input_digests.build_dataset(config)


def stored(path):
    return np.array(Image.open(path))
