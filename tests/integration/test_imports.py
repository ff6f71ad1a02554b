"""What only reads stays light: help, lists and plans load neither torch nor mlflow."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.config import compose

HEAVY = ("torch", "torchvision", "timm", "mlflow", "optuna")
CODE = """
import sys
from harness.cli import main
code = main(sys.argv[1:])
print("LOADED", sorted({name.partition(".")[0] for name in sys.modules} & set(%r)), code)
"""
PRESETS = sorted(path.stem for path in compose.PRESETS.glob("*.yaml"))


def run(*words: str, cwd: Path) -> tuple[str, str]:
    """Stdout before the last line, and the last line."""
    command = [sys.executable, "-c", CODE % (HEAVY,), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    said, _, last = done.stdout.rstrip("\n").rpartition("\n")
    return said, last


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (("--help",), "plan"),
        (("run", "--help"), "--nproc"),
        (("list",), "decoder_b"),
        (("list", "--json"), '"presets"'),
        (("plan", "ablation_ensemble", "--json"), '"missing"'),
        (("plan", "ablation_ensemble", "--power"), "to decide +1.22"),
        *((("plan", "ablation_ensemble", "--preset", preset), "Decoder A+B") for preset in PRESETS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_reading_loads_neither_torch_nor_mlflow(words: tuple[str, ...], shows: str, tmp_path: Path) -> None:
    said, last = run(*words, cwd=tmp_path)
    assert last == "LOADED [] 0"
    assert shows in said
    assert list(tmp_path.iterdir()) == []  # and nothing is left behind


def test_a_mistake_is_answered_as_lightly(tmp_path: Path) -> None:
    assert run("plan", "ablation_ensembel", cwd=tmp_path)[1] == "LOADED [] 2"


def test_what_a_rank_runs_loads_no_mlflow() -> None:
    code = (
        "import sys, harness.engine.worker; print(sorted({'mlflow', 'optuna', 'typer', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
