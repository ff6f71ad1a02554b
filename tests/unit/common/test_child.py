"""What a child process answers, whatever else is printed in it."""

import os
import subprocess
from pathlib import Path

import pytest

from harness.common import child
from harness.config.plugins import PROJECT

ASK = """
import json
from harness.common.child import answer
print("a library, as it is imported", end="")
with answer() as out:
    print("a library at work")
    json.dump({"problem": "none"}, out)
print("at the end")
"""


@pytest.mark.parametrize(
    "printed", ["print('module loaded: é', flush=True)", "import os; os.write(1, b'{\"problem\": 75}')", ""]
)
def test_an_answer_is_the_last_line_whatever_was_printed_before(printed: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(printed, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"}
    done = subprocess.run(child.python("-c", ASK), env=env, capture_output=True, text=True, check=True)
    assert child.last_line(done.stdout) == '{"problem": "none"}'
    assert "a library at work" in done.stderr


def test_no_answer_is_an_empty_line() -> None:
    assert child.last_line("") == ""
    assert child.last_line("a\n") == "a"
