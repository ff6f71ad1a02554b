"""Files beside a plug-in of one's own: they load in every rank, and an edit of one is noticed."""

import re
import shutil
from pathlib import Path

import one_model
import pytest
from command_line import harness

from harness.config.plugins import PROJECT

EXPERIMENT = """
from harness.plan.cell import Cell, Evaluate, Train
from ._title import TITLE
REPORT = "comparison"

def cells(config):
    return [Cell("cell_gate", "Cell gate", Evaluate((Train(config, "cell_gate"),)))]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(PROJECT / "docs" / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments" / "alone.py").write_text(EXPERIMENT)
    (folder / "experiments" / "_title.py").write_text('TITLE = "One"\n')
    return folder


def weights(folder: Path) -> bytes:
    (path,) = (folder / "runs").glob("jobs/*/weights.safetensors")
    return path.read_bytes()


@pytest.mark.parametrize("ranks", [(), pytest.param(("--nproc", "2"), marks=pytest.mark.slow)])
def test_an_edit_of_a_helper_is_noticed(tmp_path: Path, mine: Path, ranks: tuple[str, ...]):
    words = ("alone", *one_model.TINY, "--plugins", str(mine))
    done = harness(tmp_path, "run", *words, *ranks, "--offline")
    assert done.returncode == 0, done.stderr
    assert "2 jobs executed" in done.stderr
    before = weights(tmp_path)
    helper = mine / "decoders" / "_gates.py"
    helper.write_text(helper.read_text().replace("self.score(x)", "-5 * self.score(x)"))
    assert re.search(r"code changed.*_gates\.py", harness(tmp_path, "plan", *words).stdout)
    again = harness(tmp_path, "run", *words, *ranks, "--offline", "--rerun", "changed")
    assert again.returncode == 0, again.stderr
    assert "2 jobs executed" in again.stderr
    assert weights(tmp_path) != before
    assert "code changed" not in harness(tmp_path, "plan", *words).stdout


def test_an_edit_on_pythons_path_is_noticed(tmp_path: Path, mine: Path):
    path = tmp_path / "lib"
    path.mkdir()
    (mine / "decoders" / "_gates.py").rename(path / "loose_gates.py")
    plugin = mine / "decoders" / "cell_gate.py"
    plugin.write_text(plugin.read_text().replace("from ._gates", "from loose_gates"))
    words = ("alone", *one_model.TINY, "--plugins", str(mine))
    done = harness(tmp_path, "run", *words, "--offline", PYTHONPATH=str(path))
    assert done.returncode == 0, done.stderr
    assert "code changed" not in harness(tmp_path, "plan", *words, PYTHONPATH=str(path)).stdout
    with (path / "loose_gates.py").open("a") as file:
        file.write("# another\n")
    assert "loose_gates.py" in harness(tmp_path, "plan", *words, PYTHONPATH=str(path)).stdout
