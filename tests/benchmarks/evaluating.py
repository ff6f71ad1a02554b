"""The rows of `make bench` for an evaluation: all that it does, from files to counts, over its forward passes.

Shapes: H × W pixels of a frame, h × w of a window.
"""

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiny_jobs
import torch
from benchmarks.measure import Measure, Row, shown
from vspw_files import write

from harness.config import compose
from harness.data.datasets import synthetic
from harness.engine import build, evaluate, sliding_window
from harness.engine.runtime import Stop

VIDEOS = 4  # of CamVid's val split, of about 25 frames each


def evaluation_pace(
    measure: Measure,
    decoder: str = "upernet",
    frames: int = 25,
    size: tuple[int, int] = (360, 480),
    words: Sequence[str] = (),
) -> Row:
    """An evaluation by the camvid preset, weights random, of as many frames as CamVid's val split has, over the bare
    forward passes of the same network on the same windows.
    """
    config = compose.compose("camvid", words)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        frames_as_files(root / "data", frames, size)
        data = compose.DataSpec("vspw", {"root": str(root / "data")})
        network = {"decoder": decoder, "config": config.decoder(decoder).config, "encoder": config.encoder}
        both: dict[str, Any] = {"data": data, "evaluate": config.evaluate}
        member = tiny_jobs.untrained(root, crop=config.train.crop, **network, **both).name
        names = (f"{number:016}" for number in itertools.count())

        def task() -> evaluate.Task:
            return evaluate.task(tiny_jobs.evaluation(root, next(names), [member], **both))

        whole, passes = measure.seconds(
            lambda: evaluate.evaluate([task()], tiny_jobs.ALONE, Stop()), forward_passes(task())
        )
    number = VIDEOS * frames
    return Row(
        "evaluation",
        f"camvid's {decoder}, {number} frames of {size[0]} × {size[1]}, {torch.get_num_threads()} thread(s)",
        f"{shown(whole / number)}: {number / whole:.1f} frames a second",
        f"its forward passes: {shown(passes / number)} a frame",
        whole / passes,
        "times its forward passes",
        high=1.1,
    )


def evaluation_pace_a(measure: Measure, **how: Any) -> Row:
    """The same of Decoder A, whose P is its mask of the frame before."""
    return evaluation_pace(measure, "decoder_a", **how)


def frames_as_files(root: Path, frames: int, size: tuple[int, int]) -> None:
    """Write synthetic videos in VSPW's layout, with noise that makes a JPEG as large as one of CamVid (39 kB)."""
    height, width = size
    config = synthetic.Config(classes=11, val_videos=VIDEOS, frames=frames, height=height, width=width, noise=16.0)
    made = synthetic.Dataset(config)
    root.mkdir()
    (root / "val.txt").write_text("\n".join(made.videos("val")))
    (root / "label_num_dic_final.json").write_text(json.dumps({name: at for at, name in enumerate(made.classes, 1)}))
    for video in made.videos("val"):
        for name in made.frames("val", video):
            frame = made.read("val", video, name)
            write(root / "data" / video / "origin" / f"{name}.jpg", frame.image)
            write(root / "data" / video / "mask" / f"{name}.png", frame.label + 1)  # void 255 is 0, "others"


def forward_passes(task: evaluate.Task) -> Callable[[], None]:
    """Return the passes of a task's member over its windows, which lie decoded and cut in memory."""
    dataset = build.dataset(task.job.data)
    (stages,) = evaluate.load([task], len(dataset.classes), tiny_jobs.ALONE.device).values()
    videos = []
    for video in dataset.videos("val"):
        windows = []
        for name in dataset.frames("val", video):
            frame = dataset.read("val", video, name)
            image = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
            (tile,) = sliding_window.tiles(*image.shape[2:], task.geometry, stages.accepts)
            label = torch.from_numpy(frame.label)
            windows.append((sliding_window.cut(image, tile, stages.model.mean), sliding_window.cut_mask(label, tile)))
        videos.append(windows)
    decoder = stages.model.decoder

    @torch.inference_mode()
    def passes() -> None:
        for windows in videos:
            seen = []
            for index, (image, mask) in enumerate(windows):
                seen.append(stages.model.features(image))
                past = tuple(seen[max(index + offset, 0)] for offset in decoder.past)
                decoder.predict(decoder.encode(seen[-1], past), mask if decoder.prior == "previous" else None)

    return passes


ROWS: list[Callable[[Measure], Row]] = [evaluation_pace, evaluation_pace_a]
