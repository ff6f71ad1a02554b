"""Trainings whose masks have few labels, or none."""

import re

import numpy as np
from PIL import Image
from tiny_jobs import ALONE, messages, stop_at, train_now, training
from vspw_files import make_vspw

from harness.common.errors import UnfitError
from harness.config.compose import DataSpec
from harness.engine import train, worker
from harness.engine.runtime import Stop
from harness.engine.supervision import Supervision
from harness.jobdir.paths import JobDir


def void_training(root, labelled=()):
    """A training of ten iterations on files whose training masks are void but for those of the named videos."""
    data = make_vspw(root / "data", videos={"train": 6, "val": 1}, size=(32, 40))
    for path in (data / "data").glob("train_*/mask/*.png"):
        if path.parts[-3] not in labelled:
            Image.fromarray(np.full((32, 40), 255, np.uint8)).save(path)
    config = DataSpec("vspw", {"root": str(data)})
    return training(root, decoder="upernet", data=config, batch=2, micro_batch=2, iterations=10, checkpoint_every=4)


def test_a_training_without_any_label_ends_as_unfit_and_begins_anew(tmp_path, monkeypatch):
    folder = void_training(tmp_path)
    with monkeypatch.context() as patch:
        assert train.train(folder, ALONE, stop_at(patch, 5)).status == "preempted"
    assert worker.launch([folder], ALONE, Stop()) == 1  # counts of the first attempt are kept
    outcome = JobDir(folder).outcome()
    assert (outcome.status, outcome.exit_code) == ("failed", UnfitError.exit_code)
    assert "no pixel was labelled in any of 10 iterations" in outcome.reason
    assert "vspw" in outcome.reason
    assert "train_0000" in outcome.reason
    assert [message for message in messages(folder) if "10 of 10 iterations had no labelled pixel" in message]
    assert not list((folder / "checkpoints").glob("*"))
    assert not (folder / "weights.safetensors").exists()


def test_a_training_with_few_labels_is_told_and_finishes(tmp_path):
    folder = train_now(void_training(tmp_path, labelled=["train_00001"]))
    (message,) = messages(folder)
    assert re.match(r"[67] of 10 iterations had no labelled pixel", message)
    assert messages(train_now(void_training(tmp_path / "whole", [f"train_{k:05d}" for k in range(6)]))) == []


def test_warnings_come_when_iterations_have_doubled_and_at_the_end():
    empty, zero = Supervision(), Supervision()
    warned = {id(empty): [], id(zero): []}
    for iteration in range(1, 51):
        empty.add(0 if iteration % 3 else 7, {"loss": 0.5})
        zero.add(7, {"loss": 0.0})
        for counts in (empty, zero):
            if text := counts.warning(50, "vspw"):
                warned[id(counts)].append((iteration, text.split(" had")[0] if counts is empty else text))
    assert warned[id(empty)] == [(k, f"{k - k // 3} of {k} iterations") for k in (10, 20, 40, 50)]
    assert [k for k, text in warned[id(zero)] if "exactly 0" in text] == [10, 20, 40, 50]
    assert empty.nothing(50, "vspw", []) is zero.nothing(50, "vspw", []) is None
    assert Supervision(10, 10).nothing(20, "vspw", []) is None  # after a checkpoint that has no counts
    assert "any of 10 iterations" in str(Supervision(10, 10).nothing(10, "vspw", ["a/0"]))
