"""What only reads stays light: which modules a command loads, what it starts, and how often it opens a file."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import finished_root
import pytest

from harness.config import presets

HEAVY = ("torch", "torchvision", "timm", "mlflow", "optuna", "scipy")
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
PRESETS = sorted(path.stem for path in presets.PRESETS.glob("*.yaml"))


READING = [
    (("--help",), "plan"),
    (("run", "--help"), "--nproc"),
    (("list",), "decoder_b"),
    (("list", "--json"), '"presets"'),
    (("list", "encoders", "decoders"), "decoder_b"),
    (("plan", "ablation_ensembel"), ""),
    (("plan", "ablation_ensemble", "--json"), '"missing"'),
    *((("plan", "ablation_ensemble", "--preset", preset), "Decoder A+B") for preset in PRESETS),
    (
        ("plan", "ablation_ensemble", "--power"),
        "to decide +1.22",
    ),  # last: it alone loads scipy, and one process answers all
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
    assert set(loaded) <= ({"scipy"} if "--power" in words else set())
    assert code == (2 if "ablation_ensembel" in words else 0)  # a mistake is answered as lightly
    assert shows in said
    assert list(folder.iterdir()) == []  # and nothing is left behind


RANK = """
import contextlib, gc, runpy, sys
sys.argv[1:] = ["--help"]
with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
    runpy.run_module("harness.engine.worker", run_name="__main__", alter_sys=True)
print(gc.get_stats()[2]["collections"])
import models.encoders.beit, models.decoders.decoder_b, harness.data.datasets.vspw
print(*sorted({"mlflow", "optuna", "typer", "pandas", "scipy"} & set(sys.modules)))
"""


def test_a_rank_loads_only_what_it_needs_and_searches_no_import_for_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", RANK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0", ""]


# --- a finished Table 1: its report, and a run with nothing to do

WATCHED = """
import json, os, sys
work = {"processes": 0, "databases": 0, "counts": []}
def note(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        work["processes"] += 1
    elif event == "sqlite3.connect":
        work["databases"] += 1
    elif event == "open" and str(arguments[0]).endswith(".npz") and "videos" in str(arguments[0]):
        work["counts"].append(str(arguments[0]))
sys.addaudithook(note)
from harness.cli import main
code = main(sys.argv[1:])
print("\\n" + json.dumps({"code": code, "loaded": list(sys.modules), **work}))
"""
MLFLOW = {"mlflow", "sqlalchemy", "alembic", "requests"}
TORCH = {"torch", "torchvision", "timm"}
DRAWING = {"matplotlib", "seaborn"}
TABLES = {"pandas", "pyarrow", "jinja2"}
SLOW = {"scipy.stats", "scipy.optimize", "scipy.interpolate"}
CONNECTIONS = 12  # to a store, each of a millisecond: to see that it answers, and one a question
OPTIONS = (*finished_root.OVERRIDES, "data.synthetic.val_videos=3")


@dataclass
class Work:
    """What a command did."""

    code: int
    loaded: set[str]
    processes: int
    databases: int
    counts: list[str]  # files of the evaluations' videos, as often as they were opened


def watched(*words: str, cwd: Path) -> Work:
    command = [sys.executable, "-c", WATCHED, *words, "ablation_ensemble", *OPTIONS, "--root", "runs"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    work = json.loads(done.stdout.rpartition("\n{")[2].join(["{", ""]))
    return Work(**{**work, "loaded": set(work["loaded"])})


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished Table 1 that a store was told of, by a run that had only to tell it."""
    folder = tmp_path_factory.mktemp("uploaded")
    finished_root.make(folder / "runs", videos=3)
    first = watched("run", cwd=folder)
    assert first.code == 0
    assert "mlflow" in first.loaded
    return folder


def test_a_report_as_json_loads_neither_mlflow_nor_what_makes_tables(uploaded: Path) -> None:
    work = watched("report", "--json", cwd=uploaded)
    assert (work.code, work.processes) == (0, 0)
    assert not work.loaded & (MLFLOW | TORCH | DRAWING | TABLES | SLOW)
    assert work.counts == []  # they are in the store
    assert work.databases <= CONNECTIONS + 5  # and one for each of four cells' counts and the evidence


def test_a_report_from_the_root_reads_each_file_of_counts_once(uploaded: Path) -> None:
    (uploaded / "elsewhere").mkdir()
    (uploaded / "elsewhere" / "runs").symlink_to(uploaded / "runs")
    work = watched("report", "--json", cwd=uploaded / "elsewhere")
    assert (work.code, work.processes, work.databases) == (0, 0, 0)
    assert not work.loaded & (MLFLOW | TORCH | DRAWING | TABLES | SLOW)
    assert len(work.counts) == len(set(work.counts)) == 4 * 3  # cells, videos


def test_a_run_with_nothing_to_do_draws_nothing_and_loads_no_mlflow(uploaded: Path) -> None:
    work = watched("run", cwd=uploaded)
    assert (work.code, work.processes) == (0, 0)
    assert not work.loaded & (MLFLOW | TORCH | DRAWING | SLOW)
    assert work.databases <= CONNECTIONS


def test_a_command_ends_without_a_search_for_cycles() -> None:
    code = """
import atexit, gc, sys
from harness.cli import entry
atexit.register(lambda: print(gc.get_freeze_count() > 0))
sys.argv = ["harness", "--help"]
entry()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("True\n")


@pytest.mark.parametrize(("asked", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)], ids=["", "two asked for"])
def test_numpy_has_one_thread_in_a_command_unless_more_are_asked_for(
    asked: dict[str, str], threads: int, tmp_path: Path
) -> None:
    code = """
import atexit, os, sys
from pathlib import Path
from harness.cli import entry
asked = os.environ.get("OPENBLAS_NUM_THREADS")
def at_end():
    number = len(list(Path("/proc/self/task").iterdir()))
    print("numpy" in sys.modules, number, os.environ.get("OPENBLAS_NUM_THREADS") == asked)
atexit.register(at_end)
entry()
"""
    own = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")} | asked
    command = [sys.executable, "-c", code, "plan", "ablation_ensemble"]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"True {threads} True"
