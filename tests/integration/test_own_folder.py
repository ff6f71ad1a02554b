"""A folder of one's own as docs/OWN_DECODER.md has it: experiment, report, search, preset and harness.yaml, all run."""

import json
import re
import shutil
from pathlib import Path

import pytest
from in_process import harness

pytestmark = pytest.mark.long

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "OWN_DECODER.md").read_text()
FILES = (
    *("experiments/my_table.py", "reports/my_report.py", "searches/my_search.py"),
    *("my_preset.yaml", "harness.yaml"),
)
TINY = (
    *("data.synthetic.train_videos=8", "data.synthetic.val_videos=3", "data.synthetic.frames=2"),
    *("train.batch=4", "train.frames_per_video=1", "train.checkpoint_every=1"),
)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of the examples, where harness.yaml names the folder and the preset."""
    return Path(shutil.copytree(DOCS / "examples", tmp_path / "mine"))


@pytest.mark.parametrize("name", FILES)
def test_the_page_prints_the_files(name: str) -> None:
    blocks = [block.strip() for block in re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)]
    assert (DOCS / "examples" / name).read_text().strip() in blocks
    assert f"`{Path(name).name}`" in PAGE or f"`mine/{name}`" in PAGE


def test_an_experiment_with_a_report_under_a_preset(mine: Path) -> None:
    assert "cd docs/examples && harness run my_table\n" in PAGE
    done = harness(mine, "run", "my_table", *TINY, "--json")
    assert done.returncode == 0, done.stderr
    assert "preset my_preset" in done.stderr
    assert "5 jobs executed" in done.stderr, "two trainings and three evaluations"
    (experiment,) = json.loads(done.stdout)["experiments"]
    assert experiment["preset"] == "my_preset"
    assert [row["cell"] for row in experiment["rows"]] == ["upernet", "mine", "both"]
    assert experiment["rows"][1]["gain"] == pytest.approx(experiment["rows"][1]["miou"] - experiment["rows"][0]["miou"])
    lines = (mine / "runs" / "reports" / "my_table" / "report.md").read_text().splitlines()
    assert any(re.match(r"\| Method +\| Status +\| +mIoU \| +95% interval \| +gain \|", line) for line in lines)
    (row,) = [line for line in lines if line.startswith("| Frame difference")]
    assert f"{experiment['rows'][1]['miou']:.2f}" in row
    assert "epochs: 2" in (DOCS / "examples" / "my_preset.yaml").read_text()
    training = next(
        path for path in (mine / "runs" / "jobs").glob("*/job.yaml") if '"kind": "train"' in path.read_text()
    )
    assert json.loads(training.read_text())["train"]["epochs"] == 2


def test_from_elsewhere_by_the_flags_of_the_page(tmp_path: Path) -> None:
    command = "harness run my_table --preset docs/examples/my_preset.yaml --plugins docs/examples"
    assert f"    {command}\n" in PAGE
    words = ("--preset", str(DOCS / "examples" / "my_preset.yaml"), "--plugins", str(DOCS / "examples"), "--json")
    planned = harness(tmp_path, "plan", "my_table", *TINY, *words)
    assert planned.returncode == 0, planned.stderr
    jobs = json.loads(planned.stdout)["jobs"]
    assert sorted({job["name"] for job in jobs if job["name"].startswith("train")}) == [
        "train frame_difference seed 0",
        "train upernet seed 0",
    ]


def test_a_search(mine: Path) -> None:
    assert "harness search my_search --trials 12 --plugins docs/examples" in PAGE
    done = harness(mine, "search", "my_search", "--trials", "3", *TINY, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["trials"]) == 3
    assert {key for trial in told["trials"] for key in trial["params"]} == {
        "decoder.frame_difference.channels",
        "train.lr",
    }
