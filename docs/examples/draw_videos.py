"""Draw a data set in VSPW's layout: 20 frames of a ball that crosses sky and ground. Needs numpy and Pillow alone.

python docs/examples/draw_videos.py DIR
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"sky": 1, "ground": 2, "ball": 3}  # 0 is "others", which is ignored, as 255 is
LIGHT = {"train": {"morning": 0.6, "noon": 1.0, "evening": 0.8}, "val": {"night": 0.5, "dawn": 0.7}}  # of each video
FRAMES, HEIGHT, WIDTH = 4, 96, 128
COLOURS = np.array([[0, 0, 0], [120, 170, 230], [90, 120, 60], [220, 60, 40]], np.float32)


def draw(step: int, light: float) -> tuple[Image.Image, Image.Image]:
    """A frame and its mask: one class number a pixel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = np.where(y < HEIGHT // 2, CLASSES["sky"], CLASSES["ground"]).astype(np.uint8)
    mask[(y - HEIGHT // 2) ** 2 + (x - 24 - 20 * step) ** 2 < 18**2] = CLASSES["ball"]
    return Image.fromarray((light * COLOURS[mask]).astype(np.uint8)), Image.fromarray(mask)


def main(root: Path) -> None:
    """Lists, class names, frames and masks."""
    for split, videos in LIGHT.items():
        for video, light in videos.items():
            for kind in ("origin", "mask"):
                (root / "data" / video / kind).mkdir(parents=True, exist_ok=True)
            for step in range(FRAMES):
                image, mask = draw(step, light)
                image.save(root / "data" / video / "origin" / f"{step:08d}.jpg")
                mask.save(root / "data" / video / "mask" / f"{step:08d}.png")
        (root / f"{split}.txt").write_text("\n".join(videos) + "\n")
    (root / "label_num_dic_final.json").write_text(json.dumps({"others": 0, **CLASSES}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python draw_videos.py DIR")
    main(Path(sys.argv[1]))
