"""The harness from Python: the page's own example runs, and what it gives is what the commands give."""

import json
import re
from pathlib import Path
from typing import Any

import finished_root
import numpy as np
import pandas as pd
import pytest

from harness import api
from harness.cli import main
from harness.plan import saved_plans

PAGE = Path(__file__).parents[3] / "docs" / "API.md"
TINY = (
    *("data.synthetic.train_videos=4", "data.synthetic.val_videos=2", "data.synthetic.frames=2"),
    *("train.batch=2", "train.frames_per_video=1"),
)


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small = code.replace('"train.epochs=1"', f'"train.epochs=1", *{TINY}')
    names: dict[str, Any] = {}
    exec(compile(small, PAGE.name, "exec"), names)
    frame, everything, masks = names["frame"], names["everything"], names["masks"]
    assert list(frame.label) == ["UPerNet", "Decoder A", "Decoder B", "Decoder A+B"]
    assert set(frame.status) == {"done"}
    plain = frame.columns.drop(["sums", "totals"])
    pd.testing.assert_frame_equal(everything[plain], frame[plain].reset_index(drop=True), check_dtype=False)
    assert all((one.sums == other.sums).all() for one, other in zip(everything.sums, frame.sums, strict=True))
    assert [mask.shape for mask in masks] == [(64, 96)] * 3
    assert max(mask.max() for mask in masks) < 4
    capsys.readouterr()
    assert main(["report", "ablation_ensemble", "train.epochs=1", *TINY, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["experiments"][0]["rows"]
    assert [row["miou"] for row in rows] == pytest.approx(list(frame.miou))
    (digest,) = saved_plans.digests(tmp_path / "runs")
    command = saved_plans.facts(tmp_path / "runs", digest)["command"]
    assert command[:3] == ["harness", "run", "ablation_ensemble"]
    assert command[-6:] == ["--preset", "demo", "--root", "runs", "--seeds", "1"]


def test_a_mistake_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(api.HarnessError, match="no plan was run in this directory"):
        api.results(tmp_path)
    with pytest.raises(api.HarnessError, match=r"train\.epoch"):
        api.plan("ablation_ensemble", "train.epoch=3", root=tmp_path)
    with pytest.raises(api.HarnessError, match="launcher=slurm"):
        api.run("ablation_ensemble", root=tmp_path, launcher="slurm")
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_form_are_refused(tmp_path: Path) -> None:
    plan = finished_root.make(tmp_path)
    folder = plan.directory(plan.experiments[0].cells[0][1].job.members[0])
    with pytest.raises(api.HarnessError):  # its weights are no weights
        next(api.segment([folder], [np.zeros((4, 4), np.uint8)]))
