"""What is read of an evaluation's files: numbers that are not known are left out, never NaN."""

import io
import json
import os
import socket

import numpy as np
import pytest

from harness.common.atomic_files import write_json
from harness.results.metrics import Consistency
from harness.results.records import RunRecord, packed, read_evaluation, unpacked

CLASSES = 3


def counted(seed, frames=20):
    """A video's confusion and VC totals."""
    generator = np.random.default_rng(seed)
    made, confusion = Consistency(CLASSES), np.zeros((CLASSES, CLASSES), np.int64)
    truth = generator.integers(0, CLASSES, (4, 5)).astype(np.uint8)
    for _ in range(frames):
        mask = np.where(generator.random(truth.shape) < 0.98, truth, 0).astype(np.uint8)
        made.add(truth, mask)
        np.add.at(confusion, (truth, mask), 1)
    return confusion, made.totals


def write(folder, name, with_vc=True, **how):
    confusion, totals = counted(len(name), **how)
    (folder / "videos").mkdir(exist_ok=True)
    np.savez(folder / "videos" / f"{name}.npz", confusion=confusion, **({"vc": totals} if with_vc else {}))
    return totals


def test_all_numbers_are_there(tmp_path):
    pooled = write(tmp_path, "a") + write(tmp_path, "bcd")
    final = read_evaluation(tmp_path).final
    names = {"miou", "miou_nanmean", "fwiou", "accuracy", "mean_accuracy"}
    assert final.keys() == names | {"mvc8", "mvc16", "mvc8_strict", "mvc16_strict"}
    assert final["mvc8"] == pytest.approx(100 * pooled[0, 0, 0] / pooled[0, 0, 1])
    assert final["mvc16"] < final["mvc8"] < 100


def test_files_without_consistency_are_read_without_it(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "bcd", with_vc=False)
    found = read_evaluation(tmp_path)
    assert not [name for name in found.final if name.startswith("mvc")]
    assert "miou" in found.final
    assert "vc" not in np.load(io.BytesIO(packed(found)))


def test_short_videos_have_no_number_rather_than_nan(tmp_path):
    write(tmp_path, "a", frames=9)
    final = read_evaluation(tmp_path).final
    assert "mvc8" in final
    assert "mvc16" not in final
    assert "NaN" not in json.dumps(final)


@pytest.mark.parametrize("with_vc", [True, False])
def test_packing_keeps_everything(tmp_path, with_vc):
    write(tmp_path, "a", with_vc)
    write(tmp_path, "bcd", with_vc)
    found = read_evaluation(tmp_path)
    again = unpacked(packed(found), "run")
    assert again.final == found.final
    assert again.run_id == again.fingerprint == "run"
    assert all(np.array_equal(again.videos[name], found.videos[name]) for name in found.videos)


def test_what_older_runs_packed_is_read():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(["a"]), confusion=np.ones((1, 2, 2), np.int64))
    found = unpacked(buffer.getvalue(), "run")
    assert isinstance(found, RunRecord)
    assert found.vc == {}
    assert found.final["accuracy"] == 50
    assert found.final.keys() == {"miou", "miou_nanmean", "fwiou", "accuracy", "mean_accuracy"}


def test_hosts_that_share_a_root_and_have_equal_process_ids_write_apart(tmp_path, monkeypatch):
    """One writes while the other is between writing and renaming."""
    path, others = tmp_path / "outcome.json", ["two"]

    def other_writes(file):
        if others:
            others.clear()
            monkeypatch.setattr(socket, "gethostname", lambda: "two")
            write_json(path, {"host": "two"})

    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(os, "fsync", other_writes)
    write_json(path, {"host": "one"})
    assert json.loads(path.read_text()) == {"host": "one"}


def test_what_a_dead_writer_leaves_is_garbage(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_json(tmp_path / "outcome.json", {})
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
