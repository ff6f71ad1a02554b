"""A small made data set in VSPW's layout, for any test that needs files."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

VIDEOS = {"train": 3, "val": 2, "test": 1}
AS_FOLDER = {  # data.folder's options that read this layout
    "images": "data/{video}/origin/{frame}.jpg",
    "masks": "data/{video}/mask/{frame}.png",
    "train": "train.txt",
    "val": "val.txt",
    "test": "test.txt",
    "classes": tuple(f"class_{number}" for number in range(1, 6)),
    "first": 1,
}


def make_vspw(
    root: Path,
    videos: Mapping[str, int] = VIDEOS,
    frames: int = 3,
    size: tuple[int, int] = (24, 32),
    classes: int = 5,
    seed: int = 0,
) -> Path:
    """Write the split lists, class names, images and masks; returns the root.

    Video i of a split is SPLIT_0000i; its frames are 00000000, 00000001, … of height × width `size`. Masks hold raw
    values 0..classes and 255 in blocks of 4 pixels, each class in a colour of its own; the test split gets no masks.
    """
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (256, 3))
    root.mkdir(parents=True, exist_ok=True)
    numbers = {"others": 0} | {f"class_{k}": k for k in range(1, classes + 1)}
    (root / "label_num_dic_final.json").write_text(json.dumps(numbers))
    for split, count in videos.items():
        names = [f"{split}_{index:05d}" for index in range(count)]
        (root / f"{split}.txt").write_text("\n".join(names))  # no last newline, as some lists
        for name in names:
            for time in range(frames):
                blocks = rng.choice([*range(classes + 1), 255], (-(-size[0] // 4), -(-size[1] // 4)))
                mask = blocks.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]].astype(np.uint8)
                write(root / "data" / name / "origin" / f"{time:08d}.jpg", colours[mask].astype(np.uint8))
                if split != "test":
                    write(root / "data" / name / "mask" / f"{time:08d}.png", mask)
    return root


def write(path: Path, array: np.ndarray) -> None:
    """Save an array as the picture that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
