"""The smallest run of every plug-in by a fixed seed, against numbers that were written down (tests/data/pinned.json).

A change that moves numbers must raise a VERSION, or finished runs would pass for what they are not. A failure here
says which one; `PYTHONPATH=tests/support python tests/integration/test_numbers.py --write` pins the new numbers once it
is raised, and those of a new plug-in. (Delete an entry to pin it afresh without a new VERSION: right only before
anyone has results of it.)
Tolerances leave room for another CPU's rounding and for no change of the method.
"""

import json
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_jobs
import torch
from folder_files import make_cityscapes
from safetensors.torch import load_file
from vspw_files import make_vspw

from harness.config import plugins
from harness.config.compose import DataSpec, compose
from harness.config.sections import EvaluateConfig
from harness.data import contract
from harness.engine import train, worker
from harness.engine.runtime import Stop
from harness.jobdir.replay import Replay
from harness.plan.spec import TrainSpec, read_as

PINNED = Path(__file__).parents[1] / "data" / "pinned.json"
KINDS = ("decoders", "encoders", "datasets")
EVERY = [(kind, name) for kind in KINDS for name in plugins.names(kind)]
DATA = {**tiny_jobs.DATA, "val_videos": 2, "height": 64, "width": 96}
# small steps: AdamW's sign and batch norm over few pixels would blow rounding up; decay so strong that it shows
TRAIN: dict[str, Any] = {"iterations": 6, "crop": 64, "short_side": 64, "lr": 1e-4, "weight_decay": 2.0, "warmup": 1}
ENCODERS = {"beit": {"model": "tiny"}}  # others by their own defaults
AGAIN = "PYTHONPATH=tests/support python tests/integration/test_numbers.py --write"


def narrow(kind: str, name: str) -> dict[str, Any]:
    """A plug-in's own defaults with every width cut to 8."""
    if name in tiny_jobs.HEADS:
        return tiny_jobs.HEADS[name]
    config: Any = plugins.read_schema(plugins.find(kind, name)).config
    return {f.name: 8 for f in fields(config) if type(f.default) is int and f.default > 8}


def parts(kind: str, name: str) -> dict[str, str]:
    """What takes part in a plug-in's run, by the file that holds its VERSION."""
    if kind != "decoders":
        return {kind: f"{plugins.KINDS[kind]}/{name}.py"}
    return {
        "decoders": f"models/decoders/{name}.py",
        "train": "harness/engine/train.py",
        "evaluate": "harness/engine/evaluate.py",
        "encoders": "models/encoders/beit.py",
        "datasets": "harness/data/datasets/synthetic.py",
    }


def versions(kind: str, name: str) -> dict[str, int]:
    """The VERSIONs that a plug-in's numbers were made with, by file."""
    return {path: plugins.version_of(path) for path in parts(kind, name).values()}


def run_decoder(folder: Path, name: str) -> dict[str, Any]:
    """Train a few iterations and evaluate two videos: losses, memory, how far the weights went, confusion."""
    data = DataSpec("synthetic", DATA)
    job = tiny_jobs.training(folder, "a" * 16, name, narrow("decoders", name), data=data, **TRAIN)
    window = EvaluateConfig(window=TRAIN["crop"])
    evaluation = tiny_jobs.evaluation(folder, "e" * 16, ["a" * 16], data=data, evaluate=window)
    assert worker.launch([job, evaluation], tiny_jobs.ALONE, Stop()) == 0
    weights = load_file(job / "weights.safetensors")
    return {
        "loss": [round(loss, 6) for loss in Replay.of(job / "events.jsonl").losses.values()],
        "memory": {key: summary(value) for key, value in sorted(weights.items()) if key.startswith("decoder.memory.")},
        "weights": steps(train.Trainer(read_as(job, TrainSpec), DATA["classes"], tiny_jobs.ALONE).model, weights),
        "confusion": np.sum(list(tiny_jobs.counts(evaluation).values()), axis=0).tolist(),
    }


def steps(start: torch.nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """The mean step of a part's weights, and the share by which they shrank, both in units of the learning rate."""
    groups: dict[str, list[torch.Tensor]] = {}
    for name, before in start.named_parameters():
        pair = torch.stack([before.detach(), weights[name] - before.detach()]).double().flatten(1)
        groups.setdefault(name.split(".")[0 if name.startswith("decoder.") else 1], []).append(pair)
    found = {}
    for name, pairs in sorted(groups.items()):
        before, step = torch.cat(pairs, dim=1) / torch.tensor([[1.0], [TRAIN["lr"]]])
        shrunk = -(before * step).sum() / before.square().sum()
        found[name] = [round(float(step.abs().mean()), 4), round(float(shrunk), 4)]
    return found


def run_encoder(name: str) -> dict[str, Any]:
    """What a fresh encoder says of a picture, and how deep its parameters lie."""
    module = plugins.load("encoders", name)
    torch.manual_seed(3)
    encoder = module.Encoder(module.Config(**ENCODERS.get(name, {})), TRAIN["crop"]).eval()
    with torch.no_grad():
        found = encoder(torch.linspace(-2, 2, 3 * TRAIN["crop"] ** 2).sin().view(1, 3, TRAIN["crop"], TRAIN["crop"]))
    layers = [encoder.layer_id(key) for key, _ in encoder.named_parameters()]
    levels = {f"X{index}": summary(level) for index, level in enumerate(found.levels, 1)}
    return {"features": {**levels, "deepest": summary(found.deepest)}, "layers": np.bincount(layers).tolist()}


def summary(value: torch.Tensor) -> list[float]:
    """Mean, root of the mean square and a few values of a tensor."""
    numbers = value.double().flatten()
    some = numbers[:: max(1, len(numbers) // 8)][:8]
    return [round(float(x), 6) for x in (numbers.mean(), numbers.square().mean().sqrt(), *some)]


def read_data(folder: Path, name: str) -> dict[str, Any]:
    """What a data set reads: its digest, the share of each label and the mean colour of a few frames."""
    module = plugins.load("datasets", name)
    made = {"vspw": make_vspw, "folder": make_cityscapes}
    options = {"root": str(made[name](folder / "made"))} if name in made else {}
    if name == "folder":
        options = {**compose("cityscapes_video")["data"]["folder"], **options}
    data = module.Dataset(module.Config(**options))
    found: dict[str, Any] = {"classes": len(data.classes)}
    for split in ("train", "val"):
        frames = [
            data.read(split, video, frame)
            for video in data.videos(split)[:2]
            for frame in contract.labelled(data, split, video)[:3]
        ]
        labels = np.concatenate([frame.label.ravel() for frame in frames])
        found[split] = {
            "digest": data.digest(split),
            "labels": {
                str(value): int(count) for value, count in zip(*np.unique(labels, return_counts=True), strict=True)
            },
            "colour": [round(float(x), 4) for x in np.mean([frame.image.mean((0, 1)) for frame in frames], axis=0)],
        }
    return found


def measure(kind: str, name: str) -> dict[str, Any]:
    """A plug-in's smallest run, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if kind == "decoders":
                made = run_decoder(Path(folder), name)
            else:
                made = run_encoder(name) if kind == "encoders" else read_data(Path(folder), name)
    finally:
        torch.set_num_threads(before)
    return {"versions": versions(kind, name), **made}


ROOM = {"loss": 2e-4, "memory": 1e-2, "weights": 5e-2, "features": 1e-3, "colour": 5e-3}  # of the largest number
PIXELS = 0.01  # share of pixels that may change class, on the border of two


def moved(pinned: Any, found: Any, name: str = "") -> list[str]:
    """Names of the numbers that differ by more than another CPU's rounding; further down, the same for one of them."""
    if not name:
        return [key for key in found if key != "versions" and moved(pinned.get(key), found[key], key)]
    if isinstance(pinned, dict) and isinstance(found, dict):
        keys = {**pinned, **found}
        return [key for key in keys if moved(pinned.get(key), found.get(key), key if key in ROOM else name)]
    if name == "confusion":
        before, after = np.array(pinned), np.array(found)
        same = before.shape == after.shape and np.abs(before - after).sum() <= 2 * PIXELS * before.sum()
    elif name in ROOM and isinstance(pinned, list) and isinstance(found, list):
        same = near(pinned, found, ROOM[name])
    else:
        same = bool(pinned == found)
    return [] if same else [name]


def near(pinned: list[float], found: list[float], share: float) -> bool:
    """Whether numbers agree to a share of the largest of them."""
    room = share * max(map(abs, pinned), default=0.0)
    return len(pinned) == len(found) and all(abs(x - y) <= room for x, y in zip(pinned, found, strict=True))


def advice(kind: str, name: str, names: list[str]) -> str:
    """Which VERSION to raise."""
    files = parts(kind, name)
    if names == ["confusion"]:
        files = {key: files[key] for key in ("evaluate", "decoders")}
    return (
        f"{kind[:-1]} {name}: {', '.join(names)} moved. If the change is meant, raise VERSION where it was made "
        f"({', '.join(files.values())}; for a shared layer in every plug-in that uses it), then run: {AGAIN}"
    )


def load() -> dict[str, Any]:
    """The pinned numbers."""
    found: dict[str, Any] = json.loads(PINNED.read_text())
    return found


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_numbers_are_the_pinned_ones(kind: str, name: str) -> None:
    pinned = load().get(kind, {}).get(name)
    assert pinned is not None, f"{kind[:-1]} {name} has no pinned numbers; to add them run: {AGAIN}"
    stale = [path for path, version in versions(kind, name).items() if pinned["versions"].get(path) != version]
    assert not stale, f"VERSION of {', '.join(stale)} is not the pinned one; to pin the new numbers run: {AGAIN}"
    names = moved(pinned, measure(kind, name))
    assert not names, advice(kind, name, names)


def test_nothing_is_pinned_that_is_gone() -> None:
    assert [(kind, name) for kind, names in load().items() for name in names if (kind, name) not in EVERY] == []


@pytest.mark.parametrize("name", ["loss", "memory", "weights", "confusion"])
def test_a_moved_number_is_noticed_and_rounding_is_not(name: str) -> None:
    pinned = load()["decoders"]["decoder_a"]
    rounded, changed = json.loads(json.dumps(pinned)), json.loads(json.dumps(pinned))
    if name == "confusion":
        rounded["confusion"][0][0] -= 5
        rounded["confusion"][0][1] += 5
        changed["confusion"] = np.roll(pinned["confusion"], 1, axis=1).tolist()
    else:
        part = {"loss": "loss", "memory": "decoder.memory.rows", "weights": "decoder"}[name]
        for made, factor in ((rounded, 1.0001), (changed, 1.5)):
            numbers = made["loss"] if name == "loss" else made[name][part]
            numbers[0] *= factor
    assert moved(pinned, rounded) == []
    assert moved(pinned, changed) == [name]


def test_a_number_that_is_gone_or_not_finite_is_noticed() -> None:
    pinned = load()["decoders"]["decoder_a"]
    assert moved(pinned, {**pinned, "memory": {}}) == ["memory"]
    assert moved(pinned, {**pinned, "loss": [float("nan")] * len(pinned["loss"])}) == ["loss"]
    made = load()["datasets"]["vspw"]
    assert moved(made, {**made, "val": {**made["val"], "digest": "other"}}) == ["val"]
    assert moved(made, {**made, "classes": 3}) == ["classes"]


def test_advice_names_the_versions_that_may_have_to_rise() -> None:
    told = advice("decoders", "decoder_b", ["loss", "memory"])
    for path in ("models/decoders/decoder_b.py", "harness/engine/train.py", "models/encoders/beit.py", AGAIN):
        assert path in told
    assert "harness/engine/evaluate.py" in advice("decoders", "decoder_b", ["confusion"])
    assert "harness/engine/train.py" not in advice("decoders", "decoder_b", ["confusion"])


def write() -> int:
    """Pin what is new or has another VERSION; refuse what moved while all VERSIONs stayed."""
    pinned: dict[str, Any] = load() if PINNED.is_file() else {}
    kept: dict[str, Any] = {kind: {} for kind in KINDS}
    refused = 0
    for kind, name in EVERY:
        found, before = measure(kind, name), pinned.get(kind, {}).get(name)
        raised = before is None or before["versions"] != found["versions"]
        names = [] if raised else moved(before, found)
        if names:
            refused += 1
            print(advice(kind, name, names), file=sys.stderr)
        kept[kind][name] = found if raised else before
    PINNED.write_text(json.dumps(kept, indent=1) + "\n")
    return 1 if refused else 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {AGAIN}")
    sys.exit(write())
