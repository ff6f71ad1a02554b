import os
import subprocess
import sys
from pathlib import Path

from harness.common import child

MODULE = """
import gc
import json
import sys

WHILE_IMPORTED = gc.isenabled()


def main():
    print(json.dumps([sys.argv[1:], WHILE_IMPORTED, gc.isenabled(), gc.get_freeze_count() > 1000]))
    return 3
"""


def test_a_module_has_its_words_and_python_collects_after_its_imports(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}
    command = child.program("theirs", "one", "two words")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ('[["one", "two words"], false, true, true]\n', "", 3)
