"""The guides' own commands, as a newcomer gives them, at the smallest size there is."""

import json
import subprocess
import sys
from pathlib import Path

import command_line
import pytest
from command_line import TINY
from folder_files import make_cityscapes
from in_process import harness
from one_model import FILE

from harness.cli import COMMANDS

pytestmark = pytest.mark.long

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALL = ("train.epochs=1", "train.frames_per_video=1", "train.batch=3")


def test_a_decoder_of_ones_own_is_a_row(tmp_path: Path):
    words = ("ablation_ensemble", "extra=[frame_difference]", "--plugins", str(DOCS / "examples"))
    assert f"harness run {words[0]} '{words[1]}' --plugins docs/examples" in (DOCS / "OWN_DECODER.md").read_text()
    done = harness(tmp_path, "run", *words, *TINY, "--json")
    assert done.returncode == 0, done.stderr
    assert "9 jobs executed" in done.stderr
    *_, mine = json.loads(done.stdout)["experiments"][0]["rows"]
    assert (mine["cell"], mine["status"], mine["paper_miou"]) == ("frame_difference", "done", None)
    assert mine["gain"] is not None


def test_a_data_set_drawn_by_a_script(tmp_path: Path):
    draw = [sys.executable, str(DOCS / "examples" / "draw_videos.py")]
    assert subprocess.run([*draw, "balls"], cwd=tmp_path, check=False).returncode == 0
    assert "usage" in subprocess.run(draw, cwd=tmp_path, capture_output=True, text=True, check=False).stderr
    data = ("data.name=vspw", "data.vspw.root=balls", *SMALL)
    healthy = harness(tmp_path, "doctor", *data)
    assert healthy.returncode == 0, healthy.stdout
    assert "3 classes" in healthy.stdout
    done = harness(tmp_path, "run", FILE, *data, "--json")
    assert done.returncode == 0, done.stderr
    shown = harness(tmp_path, "report", FILE, *data, "--json")
    assert json.loads(shown.stdout)["experiments"][0]["rows"] == json.loads(done.stdout)["experiments"][0]["rows"]
    (tmp_path / "balls" / "data" / "night" / "mask" / "00000000.png").write_bytes(b"")
    broken = harness(tmp_path, "doctor", *data)
    assert broken.returncode == 3
    assert "0 bytes" in broken.stdout


def test_cityscapes_like_data_with_sparse_labels_to_a_table(tmp_path: Path):
    make_cityscapes(tmp_path / "streets")
    text = (DOCS / "DATA.md").read_text()
    assert "harness run ablation_ensemble --preset paper+cityscapes_video data.folder.root=DIR" in text
    words = (FILE, "--preset", "demo+cityscapes_video", "data.folder.root=streets", *SMALL)
    healthy = harness(tmp_path, "doctor", "data", "--preset", "cityscapes_video", "data.folder.root=streets")
    assert healthy.returncode == 0, healthy.stdout
    assert "train: 4 of 120 frames labelled" in healthy.stdout
    assert "cityscapes_video  (flag)" in healthy.stdout
    assert "built in" not in healthy.stdout, "settings that nobody chose are no part of the data"
    done = harness(tmp_path, "run", *words, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["experiments"][0]["rows"]
    assert row["status"] == "done"
    assert row["miou"] is not None
    (run,) = row["runs"]
    assert not [key for key in run["metrics"] if key.startswith("mvc")], "no two labelled frames follow each other"
    table = harness(tmp_path, "report", *words)
    assert table.returncode == 0, table.stderr
    assert "UPerNet" in table.stdout
    other = harness(tmp_path, "report", *words, "train.epochs=2")
    assert "no row is in the store: `harness report --list` prints the arguments of what was run" in other.stderr


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_command_explains_itself(tmp_path: Path, name: str):
    done = command_line.harness(tmp_path, name, "--help")
    assert done.returncode == 0
    assert f"harness {name}" in done.stdout
    assert len(done.stdout.splitlines()) > 8


def test_completion_knows_experiments_and_decoders(tmp_path: Path):
    asked = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": "harness run abl", "COMP_CWORD": "2"}
    done = command_line.harness(tmp_path, **asked)
    assert "ablation_ensemble" in done.stdout.split()
    asked["COMP_WORDS"] = "harness run ablation_ensemble train.ep"
    assert "train.epochs=" in command_line.harness(tmp_path, **asked | {"COMP_CWORD": "3"}).stdout.split()
