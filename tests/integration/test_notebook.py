"""The notebook of the docs, its code cells run in order in one namespace, as a kernel would run them.

No kernel is started (nbclient and ipykernel are not asked for): cells hold plain Python, which the test demands.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
TINY = (
    *("data.synthetic.train_videos=4", "data.synthetic.val_videos=20", "data.synthetic.frames=2"),
    "train.batch=2",
)


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    code = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in content["cells"]), "outputs are made, not kept"
    assert not any(line.lstrip().startswith(("%", "!")) for cell in code for line in cell.splitlines())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for index, cell in enumerate(code):
        small = cell.replace('SETTING = ["train.epochs=1",', f'SETTING = [*{TINY}, "train.epochs=1",')
        exec(compile(small, f"cell {index}", "exec"), names)
    frame, measured = names["frame"], names["measured"]
    assert list(frame.label) == ["UPerNet", "Decoder A", "Decoder B", "Decoder A+B"]
    assert list(frame.miou) == list(measured.miou), "other metrics, the same trainings"
    assert {"boundary_f", "ece", "precision"} <= measured.metrics.iloc[0].keys() - frame.metrics.iloc[0].keys()
    interval = names["stats"].interval([names["sample"]]).percent
    assert interval.low < 100 * names["sample"].value < interval.high
    assert math.isclose(100 * names["sample"].value, names["row"].metrics["ece"])
    assert [mask.shape for mask in names["masks"]] == [(64, 96)] * 3
    assert {path.name for path in Path("exported").glob("*.pt2")} == {"model.pt2", "first.pt2"}
    assert "train decoder_a seed 0 missing" in capsys.readouterr().out
