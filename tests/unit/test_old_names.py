import importlib
import pickle
import subprocess
import sys

import pytest

from harness import core
from harness.plan.cell import Cell


@pytest.mark.parametrize("old", core.MOVED)
def test_an_old_name_is_the_same_module_and_says_where_it_went(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new = importlib.import_module(core.MOVED[old])
    spec = new.__spec__
    monkeypatch.delitem(sys.modules, f"harness.core.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"harness.core.{old} is now {new.__name__}"):
        module = importlib.import_module(f"harness.core.{old}")
    assert module is new
    assert new.__spec__ is spec
    assert new.__name__ == core.MOVED[old]


def test_what_was_pickled_by_an_old_name_is_read() -> None:
    text = pickle.dumps(Cell, protocol=0).replace(b"charness.plan.cell", b"charness.core.spec")
    assert b"harness.core.spec" in text
    sys.modules.pop("harness.core.spec", None)
    with pytest.warns(DeprecationWarning, match="harness.plan.cell"):
        cell = pickle.loads(text)
    assert cell is Cell


def test_any_other_name_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"harness\.core\.nothing"):
        importlib.import_module("harness.core.nothing")


def test_the_warning_names_the_line_that_imports() -> None:
    code = "from harness.core.spec import Cell; from harness.core import stats, journal; print(Cell.__module__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "harness.plan.cell"
    assert done.stderr.count("<string>:1: DeprecationWarning") == 3
