"""A root as finished runs leave it, written by hand: plausible files of every kind, in a second and without torch."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from harness.config import compose, input_digests
from harness.plan import plan
from harness.plan.job import Train
from harness.plan.plan import Plan
from harness.plan.spec import to_json
from harness.results.palette import palette

OVERRIDES = ("data.synthetic.classes=8", "data.synthetic.frames=2", "data.synthetic.train_videos=8")
CELLS = ("upernet", "decoder_a", "decoder_b", "decoder_ab")
SKILL = {"upernet": 0.80, "decoder_a": 0.83, "decoder_b": 0.84}  # share of pixels that are right
PROVENANCE = {"device": "cpu", "world": 1, "threads": 2, "versions": {"torch": "2.15.0", "python": "3.11.7"}}


def make(
    root: Path,
    seeds: int = 1,
    videos: int = 24,
    without: tuple[str, ...] = (),
    experiment: str = "ablation_ensemble",
    **failed: str,
) -> Plan:
    """A plan on synthetic videos, of Table 1 if not said, all done but cells `without` and `failed` (cell=reason).

    A name of `without` may name one seed: "decoder_b/1".
    """
    root.mkdir(parents=True, exist_ok=True)
    composed = compose.compose("demo", [*OVERRIDES, f"data.synthetic.val_videos={videos}"])
    made = plan.make([experiment], composed, root, seeds)
    for seed, cell in made.experiments[0].cells:
        if {cell.name, f"{cell.name}/{seed}"} & set(without):
            continue
        if cell.name in failed:
            folder = made.directory(cell.job)
            folder.mkdir(parents=True)
            ending = {"status": "failed", "reason": failed[cell.name], "exit_code": 1}
            (folder / "outcome.json").write_text(json.dumps(ending))
            continue
        for member in cell.job.members:
            train(made, member)
        if made.state(cell.job) != "done":
            evaluate(made, cell.job)
    return made


def finish(folder: Path, job: object, seconds: float) -> None:
    (folder / "job.yaml").write_text(json.dumps(to_json(job.spec())))
    how = {"launcher": "inline", "nproc": 1, "commit": "0123456789ab", "dirty": False, "made": folder.name}
    (folder / "how.json").write_text(json.dumps(how))
    ending = {"status": "finished", "seconds": seconds, "provenance": PROVENANCE}
    (folder / "outcome.json").write_text(json.dumps(ending))


def train(made: Plan, job: Train) -> None:
    folder = made.directory(job)
    if folder.exists():
        return
    folder.mkdir(parents=True)
    steps = range(10, 161, 10)
    rng = np.random.default_rng(job.config["seed"])
    events = [{"event": "begin", "time": 1.0, "step": 0, "steps": 160}]
    for step in steps:
        main = 2.0 * float(np.exp(-step / 60)) + 0.3 + 0.05 * rng.standard_normal()
        values = {"train/loss": 1.4 * main, "train/loss_main": main}
        events.append({"event": "metrics", "time": 1.0 + step, "step": step, "values": values})
    events.append({"event": "checkpoint", "time": 200.0, "step": 160})
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if job.decoder != "upernet":
        (folder / "memory").mkdir()
        end, noise = rng.standard_normal((8, 32)), rng.standard_normal((8, 32))
        end[1] = end[0] + 0.3 * noise[0]
        for index in range(4):
            rows = end + (3 - index) * 0.4 * noise
            rows[7] = np.nan  # a class that training never saw
            np.save(folder / "memory" / f"step-{50 * (index + 1):09d}.npy", rows.astype(np.float16))
    finish(folder, job, 125.0)


def evaluate(made: Plan, job: object) -> None:
    folder = made.directory(job)  # type: ignore[arg-type]
    dataset = input_digests.build_dataset(made.config)
    members = job.members  # type: ignore[attr-defined]
    skill = max(SKILL[member.decoder] for member in members) + 0.03 * (len(members) - 1)
    (folder / "videos").mkdir(parents=True)
    for index, video in enumerate(dataset.videos("val")):
        names = dataset.frames("val", video)
        truth = dataset.read("val", video, names[len(names) // 2]).label
        assert truth is not None
        rng = np.random.default_rng(1000 * index + len(members) + sum(map(ord, members[0].decoder)))
        wrong = np.kron(rng.random((16, 24)), np.ones((4, 4))) > skill  # blocks of 4 × 4 pixels
        other = np.kron(rng.integers(0, 8, (16, 24)), np.ones((4, 4), int))
        mask = np.where(wrong | (truth == 255), other, truth).astype(np.uint8)
        valid = truth < 8
        counts = np.bincount(8 * truth[valid].astype(int) + mask[valid], minlength=64).reshape(8, 8)
        np.savez(folder / "videos" / f"{video}.npz", confusion=counts, frames=1, void=0)
        picture = Image.fromarray(mask)
        picture.putpalette(palette(8).tobytes())
        (folder / "samples" / video).mkdir(parents=True)
        picture.save(folder / "samples" / video / f"{names[len(names) // 2]}.png")
    size = len(members)
    cost = {"frames": 48, "seconds": 0.5 * size, "flops": 80_000_000 * size, "parameters": 444_136 * size}
    (folder / "cost.json").write_text(json.dumps(cost))
    finish(folder, job, 31.0)
