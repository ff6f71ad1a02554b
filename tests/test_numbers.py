"""The smallest run of every plug-in by a fixed seed, against numbers that were written down (tests/data/pinned.json).

A change that moves numbers must raise a VERSION, or finished runs would pass for what they are not. A failure here
says which one; `python tests/test_numbers.py --write` pins the new numbers once it is raised, and those of new plug-ins.
Tolerances leave room for another CPU's rounding and for no change of the method.
"""

import json
import math
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file
from vspw_files import make_vspw

from harness.core import journal, plugins
from harness.engine import worker
from harness.engine.runtime import Stop

PINNED = Path(__file__).parent / "data" / "pinned.json"
PROJECT = Path(__file__).parents[1]
KINDS = ("decoders", "encoders", "datasets")
EVERY = [(kind, name) for kind in KINDS for name in plugins.names(kind)]
ITERATIONS = 4
DATA = {**tiny_jobs.DATA, "val_videos": 2}
ENCODERS = {"beit": {"model": "tiny"}}  # others by their own defaults
AGAIN = "python tests/test_numbers.py --write"
WHERE = {
    "train": "harness/engine/train.py",
    "evaluate": "harness/engine/evaluate.py",
    "decoder": "models/decoders/{}.py",
    "encoder": "models/encoders/{}.py",
    "data": "harness/datasets/{}.py",
}


def narrow(kind: str, name: str) -> dict[str, Any]:
    """A plug-in's own defaults with every width cut to 8."""
    if name in tiny_jobs.HEADS:
        return tiny_jobs.HEADS[name]
    config: Any = plugins.read_schema(plugins.find(kind, name)).config
    return {f.name: 8 for f in fields(config) if type(f.default) is int and f.default > 8}


def parts(kind: str, name: str) -> dict[str, str]:
    """What takes part in a plug-in's run, by the file that holds its VERSION."""
    decoder, encoder, data = (name if kind == own else usual for own, usual in zip(KINDS, USUAL, strict=True))
    engine = {} if kind == "datasets" else {key: WHERE[key] for key in ("train", "evaluate")}
    models = {"decoder": WHERE["decoder"].format(decoder), "encoder": WHERE["encoder"].format(encoder)}
    return {**engine, **({} if kind == "datasets" else models), "data": WHERE["data"].format(data)}


USUAL = ("upernet", "beit", "synthetic")


def versions(kind: str, name: str) -> dict[str, int]:
    """The VERSIONs that a plug-in's numbers were made with, by file."""
    return {path: plugins.version_of(path) for path in parts(kind, name).values()}


def run_model(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """Train a few iterations and evaluate two videos: the losses, the memory and the confusion."""
    decoder, encoder = (name, "beit") if kind == "decoders" else ("upernet", name)
    job = tiny_jobs.training(
        folder,
        "a" * 16,
        decoder,
        narrow("decoders", decoder),
        encoder={"name": encoder, "config": ENCODERS.get(encoder, {})},
        data={"name": "synthetic", "config": DATA},
        iterations=ITERATIONS,
    )
    evaluation = tiny_jobs.evaluation(folder, "e" * 16, ["a" * 16], data={"name": "synthetic", "config": DATA})
    assert worker.launch([job, evaluation], tiny_jobs.ALONE, Stop()) == 0
    events, _ = journal.read(job / "events.jsonl")
    weights = load_file(job / "weights.safetensors")
    confusion = np.sum(list(tiny_jobs.counts(evaluation).values()), axis=0)
    return {
        "loss": [round(e["values"]["train/loss"], 6) for e in events if e["event"] == "metrics"],
        "memory": {key: summary(value) for key, value in sorted(weights.items()) if key.startswith("decoder.memory.")},
        "confusion": confusion.tolist(),
    }


def summary(value: torch.Tensor) -> list[float]:
    """Sum, sum of magnitudes and the first values of a tensor."""
    numbers = value.double().flatten()
    return [round(float(x), 6) for x in (numbers.sum(), numbers.abs().sum(), *numbers[:4])]


def read_data(folder: Path, name: str) -> dict[str, Any]:
    """What a data set reads: its digest, the share of each label and the mean colour of a few frames."""
    module = plugins.load("datasets", name)
    own = {field.name for field in fields(module.Config)}
    options = {"root": str(make_vspw(folder / "made"))} if "root" in own else {}
    data = module.Dataset(module.Config(**options))
    found: dict[str, Any] = {"classes": len(data.classes)}
    for split in ("train", "val"):
        frames = [
            data.read(split, video, frame)
            for video in data.videos(split)[:2]
            for frame in data.frames(split, video)[:3]
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
            made = read_data(Path(folder), name) if kind == "datasets" else run_model(Path(folder), kind, name)
    finally:
        torch.set_num_threads(before)
    return {"versions": versions(kind, name), **made}


def moved(pinned: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of the numbers that differ by more than another CPU's rounding."""
    if "confusion" not in found:
        return [key for key in found if key != "versions" and not same_data(pinned.get(key), found[key])]
    names = []
    if not near(pinned["loss"], found["loss"], 1e-3):
        names.append("loss")
    if pinned["memory"].keys() != found["memory"].keys() or not all(
        near(pinned["memory"][key], value, 5e-3) for key, value in found["memory"].items()
    ):
        names.append("memory")
    before, after = np.array(pinned["confusion"]), np.array(found["confusion"])
    room = 0.02 * before.sum()  # pixels on the border of two classes
    if before.shape != after.shape or before.sum() != after.sum() or np.abs(before - after).sum() > 2 * room:
        names.append("confusion")
    return names


def same_data(pinned: Any, found: Any) -> bool:
    """Whether a split is the same; colours may differ by a decoder of pictures."""
    if not isinstance(pinned, dict) or not isinstance(found, dict):
        return bool(pinned == found)
    rest = [{key: value for key, value in split.items() if key != "colour"} for split in (pinned, found)]
    return rest[0] == rest[1] and near(pinned["colour"], found["colour"], 5e-3)


def near(pinned: list[float], found: list[float], share: float) -> bool:
    """Whether numbers agree to a share of the largest of them."""
    room = share * max(map(abs, pinned), default=0.0)
    return len(pinned) == len(found) and all(
        math.isfinite(y) and abs(x - y) <= room for x, y in zip(pinned, found, strict=True)
    )


def advice(kind: str, name: str, names: list[str]) -> str:
    """Which VERSION to raise."""
    files = parts(kind, name)
    if names == ["confusion"]:
        files = {key: files[key] for key in ("evaluate", "decoder")}
    where = ", ".join(files.values())
    return (
        f"{kind[:-1]} {name}: {', '.join(names)} moved. If the change is meant, raise VERSION in whichever of these holds "
        f"it ({where}; for a shared layer every plug-in that uses it), then run: {AGAIN}"
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


@pytest.mark.parametrize("name", ["loss", "memory", "confusion"])
def test_a_moved_number_is_noticed_and_rounding_is_not(name: str) -> None:
    pinned = load()["decoders"]["decoder_a"]
    rounded, changed = json.loads(json.dumps(pinned)), json.loads(json.dumps(pinned))
    if name == "loss":
        rounded["loss"][1] *= 1.0002
        changed["loss"][1] *= 1.005
    elif name == "memory":
        rounded["memory"]["decoder.memory.rows"][0] += 1e-5
        changed["memory"]["decoder.memory.rows"][0] *= 1.05
    else:
        rounded["confusion"][0][0] -= 5
        rounded["confusion"][0][1] += 5
        changed["confusion"] = np.roll(pinned["confusion"], 1, axis=1).tolist()
    assert moved(pinned, rounded) == []
    assert moved(pinned, changed) == [name]


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
