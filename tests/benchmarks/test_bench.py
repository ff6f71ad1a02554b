"""Every row of the benchmark at a tiny size: that it compares what it says, not how fast."""

import json
import shutil
import tempfile
from functools import cache

import in_process
import one_model
import pytest
import tiny_study
import torch
from benchmarks import bench, commands, costs, rows
from benchmarks.measure import Measure, Row, extra_memory

WIDTHS = {"channels": 16, "aux_channels": 8, "memory_channels": 16, "tma_key": 4, "tma_value": 8}
NARROW = [f"decoder.{name}.{key}=8" for name in ("upernet", "decoder_a") for key in ("channels", "aux_channels")]
TINY = {
    "memory_update": {"B": 1, "C": 8, "cells": 4, "pixels": 32, "K": 6, "present": 3},
    "read_context": {"N": 64, "K": 5, "d": 8},
    "four_stages": {"size": "tiny", "crop": 64, "classes": 5, **WIDTHS},
    "both_tables": {"size": "tiny", "crop": 64, "classes": 5, **WIDTHS},
    "evaluation_memory": {"few": 4, "many": 12},
    "jackknife": {"videos": 20, "classes": 4, "shown_of": 3},
    "tma_read": {"N": 16, "Ck": 4, "Cv": 8},
    "confusion_counts": {"size": (24, 40), "K": 6},
    "video_consistency": {"frames": 20, "size": (24, 40), "K": 6},
    "training_sample": {"size": (48, 64), "crop": 32, "short_side": 32},
    "training_clip": {"size": (48, 64), "crop": 32, "short_side": 32},
    "checkpoint_save": {"channels": 8, "aux_channels": 8, "memory_channels": 8},
    "planning": {"seeds": 3},
    "start_up": {},
    "file_digests": {"files": 400},
    "second_look": {"files": 400},
    "second_plan": {"files": 400},
    "evaluation_pace": {"frames": 2, "size": (32, 64), "words": NARROW},
    "evaluation_pace_a": {"frames": 2, "size": (32, 64), "words": NARROW},
    "supervision": {"words": one_model.TINY},
    "report_json": {},
    "report_json_from_root": {},
    "nothing_to_do": {},
    "large_report": {"videos": 3, "classes": 8, "seeds": 2},
    "rank_start": {},
    "page_with_figures": {},
    "study_workers": {"trials": 2, "words": tiny_study.TINY},
}


@pytest.fixture(autouse=True)
def _folders_as_other_tests(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def _runs_in_this_process(monkeypatch):
    start = costs._run

    def run(place, *words):
        if words[:2] != ("-m", "harness.cli"):
            return start(place, *words)
        done = in_process.harness(place, *words[2:])
        assert done.returncode == 0, done.stderr
        return None

    monkeypatch.setattr(costs, "_run", run)


@pytest.fixture(scope="module")
def _uploads_once(tmp_path_factory):
    once = cache(lambda: upload(tmp_path_factory.mktemp("uploaded")))
    upload = commands.uploaded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "uploaded", lambda folder: shutil.copytree(once(), folder, dirs_exist_ok=True))
        yield


@pytest.mark.parametrize("row", bench.ROWS, ids=lambda row: row.__name__)
@pytest.mark.usefixtures("_runs_in_this_process", "_uploads_once")
def test_every_row_is_measured(row):
    found = row(Measure(repeats=1), **TINY[row.__name__])
    assert found.ratio > 0
    assert (found.met is None) == (not found.wanted)
    assert json.loads(json.dumps(found.plain()))["met"] == found.met


def test_a_row_keeps_its_bounds():
    def of(ratio, **bounds):
        return Row("name", "setting", "ours", "theirs", ratio, **bounds)

    assert of(41, low=40).met is True
    assert of(39, low=40).met is False
    assert of(1.1, high=1.05).met is False
    assert of(41, low=40, also=("under 1 s", False)).met is False
    assert of(1).met is None
    assert of(41, low=40, also=("under 1 s", True)).wanted == "at least 40, under 1 s"


def test_forms_run_in_turns():
    order = []
    Measure(repeats=2).seconds(lambda: order.append("a"), lambda: order.append("b"), warm=False)
    assert order == ["a", "b", "a", "b"]


def test_memory_that_a_form_takes_is_seen():
    size = 64 * 2**20
    assert 0.9 * size < extra_memory(lambda: bytearray(b"x" * size)) < 3 * size


def test_the_table_and_its_json(monkeypatch, capsys):
    def small(measure):
        return rows.jackknife(measure, videos=20, classes=4, shown_of=2)

    small.__name__ = "small"
    monkeypatch.setattr(bench, "ROWS", [small])
    threads = str(torch.get_num_threads())
    assert bench.main(["--repeats", "1", "--threads", threads, "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["name"] == "jackknife of mIoU"
    assert bench.main(["--repeats", "1", "--threads", threads]) in (0, 1)
    assert "summing the matrices of all other videos" in capsys.readouterr().out
