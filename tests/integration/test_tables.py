"""Table 2 and the challenge's entry by the command line, at the smallest size there is."""

import json
from pathlib import Path

import pytest
from command_line import TINY, all_runs
from in_process import harness

pytestmark = pytest.mark.long


def test_table_2_shares_the_training_and_stage_0_of_table_1(tmp_path: Path):
    words = ("ablation_ensemble", "ablation_stages", *TINY)
    done = harness(tmp_path, "run", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert "11 jobs executed, 0 already done" in done.stderr  # 3 trainings, 4 rows, stages 1 to 3, P = truth
    one, two = json.loads(done.stdout)["experiments"]
    rows = {row["cell"]: row for row in two["rows"]}
    assert list(rows) == ["stage0", "stage1", "stage2", "stage3", "truth"]
    assert rows["stage0"]["miou"] == next(row["miou"] for row in one["rows"] if row["cell"] == "decoder_a")
    assert [claim["over"] for claim in one["claims"]] == ["upernet", "upernet", "decoder_a"]
    assert [(claim["cell"], claim["paper_gain"]) for claim in two["claims"]] == [("stage1", 0.19)]
    shown = harness(tmp_path, "report", *words, "--json")
    assert [each["rows"] for each in json.loads(shown.stdout)["experiments"]] == [one["rows"], two["rows"]]
    table = (tmp_path / "runs" / "reports" / "ablation_stages" / "report.md").read_text()
    assert "Inference Stage" in table
    assert "early exit" in table
    assert "not positions" in table  # why stages change so little
    stages = [run for run in all_runs(tmp_path) if "stage" in run.data.params and "final/miou" in run.data.metrics]
    assert sorted({run.data.params["stage"] for run in stages}) == ["0", "1", "2", "3", "truth"]


def test_the_challenges_entry_is_packed_and_valid(tmp_path: Path):
    words = (*TINY, "data.synthetic.test_videos=1")
    done = harness(tmp_path, "run", "final_framework", *words, "stages=1")
    assert done.returncode == 0, done.stderr
    (packed,) = (tmp_path / "runs" / "submissions").glob("*.zip")
    assert (
        "cannot be checked here because the test labels are not public"
        in done.stdout + (tmp_path / "runs" / "reports" / "final_framework" / "report.md").read_text()
    )
    valid = harness(tmp_path, "score", str(packed), *words, "--split", "test")
    assert valid.returncode == 0, valid.stderr
    assert "ready to submit" in valid.stderr
