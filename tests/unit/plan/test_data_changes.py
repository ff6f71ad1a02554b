"""Data by content in a plan: what becomes missing, what is said of it, and what becomes of results of 0.1."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from vspw_files import make_vspw, write

from harness.common.errors import UnfitError
from harness.config.compose import compose
from harness.config.settings import RunOptions
from harness.data import manifest
from harness.data.datasets import vspw
from harness.launch import runner
from harness.plan import data_changes, plan
from harness.plan.adoption import UNDIGESTED
from harness.plan.explain import explain
from harness.plan.job import Train
from harness.plan.plan import Plan
from harness.plan.spec import to_json
from harness.results import cells

SMALL = {"train": 3, "val": 2, "test": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_vspw(tmp_path / "data", SMALL, 2, (8, 12))


def make(root: Path, data: Path, compute: bool = True, accept: bool = False) -> Plan:
    (root / "jobs").mkdir(parents=True, exist_ok=True)
    composed = compose("demo", ["data.name=vspw", f"data.vspw.root={data}", "train.batch=2"])
    return plan.make(["ablation_ensemble"], composed, root, compute=compute, accept=accept)


def finish(full_plan: Plan) -> Plan:
    """Every job of a plan as if it had been run."""
    for job in full_plan.jobs:
        folder = full_plan.directory(job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.yaml").write_text(json.dumps(to_json(job.spec())))
        (folder / "outcome.json").write_text(json.dumps({"status": "finished", "seconds": 1.0}))
    return full_plan


def finish_before(root: Path, data: Path) -> Plan:
    """A root of 0.1: jobs whose identities know nothing of the data's files."""
    time.sleep(0.02)  # a tick of the file system's clock
    full_plan = finish(make(root / "of_before", data, compute=False))
    assert all(set(job.identity["data"]["content"]) <= {"train", "val"} for job in full_plan.jobs)
    shutil.move(root / "of_before" / "jobs", root / "jobs")
    time.sleep(0.02)
    return full_plan


def states(full_plan: Plan) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {"train": set(), "evaluate": set()}
    for job in full_plan.jobs:
        kinds["train" if isinstance(job, Train) else "evaluate"].add(full_plan.state(job))
    return kinds


def change(data: Path, split: str = "val", value: int = 1) -> int:
    masks = sorted(data.glob(f"data/{split}_*/mask/*.png"))
    for path in masks:
        write(path, np.full((8, 12), value, np.uint8))
    return len(masks)


ALL_DONE = {"train": {"done"}, "evaluate": {"done"}}
VAL_MISSING = {"train": {"done"}, "evaluate": {"missing"}}


def test_changed_masks_are_named_and_the_old_results_come_back_with_them(tmp_path: Path, data: Path) -> None:
    root = tmp_path / "runs"
    finish(make(root, data))
    assert states(make(root, data)) == ALL_DONE
    shutil.copytree(data, tmp_path / "kept")
    count = change(data)
    full_plan = make(root, data)
    assert states(full_plan) == VAL_MISSING
    said = explain(full_plan, "decoder_a")
    assert f"data changed: {count} masks of val, e.g. val_00000/mask/00000000.png" in said
    row = cells.read(full_plan, full_plan.experiments[0].cells[0][1], {})
    assert (row["status"], row["reason"]) == ("missing", f"data changed: {count} masks of val, e.g. {said.split()[-1]}")
    assert states(make(root, tmp_path / "kept")) == ALL_DONE
    change(data, "train")
    assert states(make(root, data)) == {"train": {"missing"}, "evaluate": {"missing"}}


def test_a_plan_reads_no_file_and_says_so(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    finish(make(root, data))
    monkeypatch.setattr(manifest, "RACY", -(10**9))
    make(root, data)
    change(data)
    monkeypatch.setattr(manifest, "_sum", lambda path: pytest.fail(f"{path} was read"))
    full_plan = make(root, data, compute=False)
    assert states(full_plan)["evaluate"] == {"missing"}
    lines = data_changes.lines(full_plan)
    assert (
        lines[0] == "data without digests: val: 4 of 8 files are new or have changed since their digests were computed"
    )
    assert "--check-data" in lines[1]
    with pytest.raises(UnfitError, match="data without digests: val"):
        runner.missing(full_plan, RunOptions())


def test_data_that_is_not_whole_ends_a_run_before_its_first_job(tmp_path: Path, data: Path) -> None:
    shutil.rmtree(data / "data" / "val_00001" / "mask")
    full_plan = make(tmp_path / "runs", data)
    with pytest.raises(UnfitError, match="val_00001/mask"):
        runner.missing(full_plan, RunOptions())
    shutil.rmtree(data / "data" / "test_00000")
    assert not [line for line in data_changes.lines(make(tmp_path / "runs", data)) if "yet: test" in line]  # not read


def test_results_of_before_are_adopted_while_no_file_has_changed(tmp_path: Path, data: Path) -> None:
    root = tmp_path / "runs"
    before = finish_before(root, data)
    full_plan = make(root, data)
    assert [job.fingerprint for job in full_plan.jobs] == [job.fingerprint for job in before.jobs]
    assert states(full_plan) == ALL_DONE
    assert (
        len([line for line in data_changes.lines(full_plan) if "no file had changed since they were produced" in line])
        == 2
    )
    count = change(data)
    undigested = make(root, data, compute=False)
    assert states(undigested) == VAL_MISSING
    assert undigested.config.content.manifests["val"] == UNDIGESTED
    changed = make(root, data)
    assert states(changed) == VAL_MISSING
    assert f"data changed: {count} masks of val" in explain(changed, "upernet")
    assert states(make(root, data, accept=True)) == VAL_MISSING  # what they stand for is known: there is no doubt
    finish(changed)
    assert states(make(root, data)) == ALL_DONE


@pytest.mark.parametrize("kind", ["masks", "a copy", "a folder", "the whole folder"])
def test_results_of_before_are_offered_where_the_data_may_have_changed(tmp_path: Path, data: Path, kind: str) -> None:
    root = tmp_path / "runs"
    finish_before(root, data)
    if kind == "masks":
        change(data)
    elif kind == "a copy":
        shutil.copytree(data, tmp_path / "copy")
        data = tmp_path / "copy"
    elif kind == "a folder":
        video = data / "data" / "val_00000"
        video.rename(data / "data" / "other")
        (data / "data" / "val_00001").rename(video)
        (data / "data" / "other").rename(data / "data" / "val_00001")
    else:
        data.rename(tmp_path / "kept")
        (tmp_path / "kept").rename(data)
    full_plan = make(root, data)
    assert "missing" in states(full_plan)["evaluate"]
    (offer,) = [
        line for line in data_changes.lines(full_plan) if "not adopted" in line and "of val changed after" in line
    ]
    assert "--accept data" in offer
    accepted = make(root, data, accept=True)
    assert states(accepted) == ALL_DONE
    assert [line for line in data_changes.lines(accepted) if "val: results without file digests accepted on" in line]
    assert states(make(root, data)) == ALL_DONE


def test_results_of_before_are_offered_where_frames_come_in_another_order(tmp_path: Path, data: Path) -> None:
    video = data / "data" / "val_00000"
    for kind in ("origin", "mask"):
        for number, path in enumerate(sorted((video / kind).iterdir()), 9):
            path.rename(path.with_stem(f"f{number}"))  # f9, f10
    root = tmp_path / "runs"
    finish_before(root, data)
    offered = make(root, data)
    assert states(offered) == VAL_MISSING
    (offer,) = [line for line in data_changes.lines(offered) if "--accept data" in line]
    assert "frames of val are now ordered by number (val_00000: f9, f10, …)" in offer
    assert states(make(root, data, accept=True)) == ALL_DONE


def test_a_copied_root_is_as_old_as_its_journals(tmp_path: Path, data: Path) -> None:
    root = tmp_path / "runs"
    before = finish_before(root, data)
    for job in before.jobs:
        event = {"event": "end", "time": time.time() - 3600}
        (root / "jobs" / job.fingerprint / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert "missing" in states(make(root, data))["train"]


def test_a_data_set_that_lists_no_files_is_known_as_before(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(vspw.Dataset, "split_files")
    full_plan = finish(make(tmp_path / "runs", data))
    assert all(set(job.identity["data"]["content"]) <= {"train", "val"} for job in full_plan.jobs)
    change(data)
    assert states(make(tmp_path / "runs", data)) == ALL_DONE
    assert data_changes.lines(full_plan) == []


def test_data_that_changes_after_it_was_planned_is_noticed(tmp_path: Path, data: Path) -> None:
    full_plan = make(tmp_path / "runs", data)
    assert data_changes.since_planned(full_plan) == ""
    change(data)
    assert data_changes.since_planned(full_plan) == "4 masks of val, e.g. val_00000/mask/00000000.png"
    with pytest.raises(UnfitError, match="since this was submitted: 4 masks of val"):
        runner.missing(full_plan, RunOptions(inside=True))
    finish_before(tmp_path / "earlier", data)
    adopted = make(tmp_path / "earlier", data)
    assert data_changes.since_planned(adopted) == ""
    change(data, value=2)
    assert data_changes.since_planned(adopted).startswith("4 masks of val")
    shutil.rmtree(data / "data" / "val_00000" / "mask")
    assert "val_00000/mask: no such folder" in data_changes.since_planned(adopted)


def test_a_damaged_job_of_others_is_no_result(tmp_path: Path, data: Path) -> None:
    root = tmp_path / "runs"
    finish(make(root, data))
    (root / "jobs" / "0123456789abcdef").mkdir()
    (root / "jobs" / "0123456789abcdef" / "job.yaml").write_text("{")
    other = root / "jobs" / "123456789abcdef0"
    shutil.copytree(next(path for path in (root / "jobs").glob("*/") if (path / "outcome.json").exists()), other)
    (other / "outcome.json").write_text("{")
    change(data)
    full_plan = make(root, data)
    row = cells.read(full_plan, full_plan.experiments[0].cells[0][1], {})
    assert "data changed: 4 masks of val" in row["reason"]


def test_touching_and_moving_change_no_fingerprint(tmp_path: Path, data: Path) -> None:
    root = tmp_path / "runs"
    wanted = [job.fingerprint for job in finish(make(root, data)).jobs]
    for path in data.rglob("*"):
        os.utime(path)
    assert [job.fingerprint for job in make(root, data).jobs] == wanted
    data.rename(tmp_path / "moved")
    (tmp_path / "linked").symlink_to(tmp_path / "moved")
    for place in ("moved", "linked"):
        assert [job.fingerprint for job in make(root, tmp_path / place).jobs] == wanted
