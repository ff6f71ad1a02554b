"""Data that changes between two runs of the same command, as a person meets it."""

import json
import re
from pathlib import Path

import numpy as np
from in_process import harness
from vspw_files import make_vspw, write

SETTING = (
    *("data.name=vspw", "train.epochs=1", "train.frames_per_video=1", "train.batch=2"),
    *("train.crop=32", "train.short_side=32", "train.warmup=0"),
)


def executed(folder: Path, root: str, *words: str) -> tuple[int, dict, str]:
    """Jobs that were run, the table as JSON, and what was said."""
    done = harness(
        folder, "run", "ablation_ensemble", *SETTING, f"data.vspw.root={root}", "--offline", "--json", *words
    )
    assert done.returncode == 0, done.stderr
    match = re.search(r"(\d+) jobs executed", done.stderr)
    assert match is not None
    return int(match[1]), json.loads(done.stdout)["experiments"][0], done.stderr


def planned(folder: Path, root: str, *words: str) -> str:
    done = harness(folder, "plan", "ablation_ensemble", *SETTING, f"data.vspw.root={root}", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def miou(table: dict) -> list[float]:
    return [row["miou"] for row in table["rows"]]


def test_changed_masks_are_evaluated_again_and_a_moved_data_set_is_not(tmp_path: Path) -> None:
    data = make_vspw(tmp_path / "d", videos={"train": 4, "val": 2, "test": 1}, frames=4, size=(32, 40))
    assert "data without digests: train: 32 of 32 files" in planned(tmp_path, "d")
    count, first, said = executed(tmp_path, "d")
    assert count == 7
    assert "digesting data: 32/32 files" in said
    assert "Jobs (7: 7 done)" in planned(tmp_path, "d")

    for path in data.glob("data/val_*/mask/*.png"):
        write(path, np.ones((32, 40), np.uint8))
    assert "data without digests: val: 8 of 16 files" in planned(tmp_path, "d")
    assert "Jobs (7: 3 done, 4 missing)" in planned(tmp_path, "d", "--check-data")
    wanted = "data changed: 8 masks of val, e.g. val_00000/mask/00000000.png"
    assert wanted in planned(tmp_path, "d", "--why", "upernet")
    facts = json.loads(planned(tmp_path, "d", "--json"))
    assert {job["data_changed"] for job in facts["jobs"]} == {None, wanted.removeprefix("data changed: ")}
    assert facts["undigested"] == {}
    count, second, _ = executed(tmp_path, "d")
    assert count == 4
    assert miou(second) != miou(first)

    data.rename(tmp_path / "moved")
    count, third, _ = executed(tmp_path, "moved")
    assert (count, miou(third)) == (0, miou(second))
