"""A models.py, experiments.py, reports.py or harness.py in the working directory hides none of ours."""

import json
import re
import subprocess
import sys
from pathlib import Path

import one_model
import pytest
from command_line import environment
from shadows import shadow

from harness.config.plugins import PROJECT


def harness(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("harness")), *words]  # the console script
    env = environment()
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.parametrize(
    ("launcher", "kind"),
    [
        ("inline", "folder"),
        pytest.param("inline", "file", marks=pytest.mark.slow),
        pytest.param("torchrun", "folder", marks=pytest.mark.slow),
        pytest.param("torchrun", "file", marks=pytest.mark.slow),  # test_end_to_end has two ranks beside such files
    ],
)
def test_jobs_run_beside_them(tmp_path: Path, launcher: str, kind: str) -> None:
    shadow(tmp_path, kind)
    ranks = ("--launcher", launcher, *(("--nproc", "2") if launcher == "torchrun" else ()))
    done = harness(tmp_path, "run", one_model.FILE, *one_model.TINY, *ranks, "--offline", "--json")
    assert done.returncode == 0, done.stderr
    assert "2 jobs executed" in done.stderr
    assert [row["seeds"] for row in json.loads(done.stdout)["experiments"][0]["rows"]] == [1]


@pytest.mark.parametrize("kind", ["file", pytest.param("folder", marks=pytest.mark.slow)])
def test_other_children_run_beside_them(tmp_path: Path, kind: str) -> None:
    shadow(tmp_path, kind)
    counted = harness(tmp_path, "plan", one_model.FILE, *one_model.TINY, "--count")
    assert counted.returncode == 0, counted.stderr
    found = json.loads(harness(tmp_path, "doctor", one_model.FILE, *one_model.TINY, "--json").stdout)
    assert not [line for line in map(json.dumps, found["findings"]) if "working directory" in line]
    checked = harness(tmp_path, "check", "synthetic")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_child_is_started_another_way() -> None:
    starts = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "harness").rglob("*.py")
        if re.search(r"\bsys\.executable\b", path.read_text())
    }
    assert starts == {"harness/common/child.py"}
