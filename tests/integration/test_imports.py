"""What only reads stays light: help, lists and plans load neither torch nor mlflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config import compose

HEAVY = ("torch", "torchvision", "timm", "mlflow", "optuna")
CODE = """
import contextlib, io, json, os, sys
from harness.cli import main
answers = []
for folder, words in json.load(sys.stdin):
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(words)
    answers.append((out.getvalue(), sorted({name.partition(".")[0] for name in sys.modules} & set(%r)), code))
json.dump(answers, sys.stdout)
"""
PRESETS = sorted(path.stem for path in compose.PRESETS.glob("*.yaml"))


READING = [
    (("--help",), "plan"),
    (("run", "--help"), "--nproc"),
    (("list",), "decoder_b"),
    (("list", "--json"), '"presets"'),
    (("plan", "ablation_ensembel"), ""),
    (("plan", "ablation_ensemble", "--json"), '"missing"'),
    (("plan", "ablation_ensemble", "--power"), "to decide +1.22"),
    *((("plan", "ablation_ensemble", "--preset", preset), "Decoder A+B") for preset in PRESETS),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[Path, str, list[str], int]]:
    """Each command's folder, stdout, the heavy modules loaded by its end, and exit code; one process gives them all."""
    asked = [(tmp_path_factory.mktemp("reading"), words) for words, _ in READING]
    command = [sys.executable, "-c", CODE % (HEAVY,)]
    text = json.dumps([(str(folder), words) for folder, words in asked])
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    return {words: (folder, *told) for (folder, words), told in zip(asked, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize(("words", "shows"), READING, ids=[" ".join(words) for words, _ in READING])
def test_reading_loads_neither_torch_nor_mlflow(
    words: tuple[str, ...], shows: str, answers: dict[tuple[str, ...], tuple[Path, str, list[str], int]]
) -> None:
    folder, said, loaded, code = answers[words]
    assert loaded == []
    assert code == (2 if "ablation_ensembel" in words else 0)  # a mistake is answered as lightly
    assert shows in said
    assert list(folder.iterdir()) == []  # and nothing is left behind


def test_what_a_rank_runs_loads_no_mlflow() -> None:
    code = (
        "import sys, harness.engine.worker; print(sorted({'mlflow', 'optuna', 'typer', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
