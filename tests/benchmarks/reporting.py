"""Rows of `make bench` for a report's page with figures, against drawing its figures alone."""

import pickle
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import finished_root
import numpy as np
from benchmarks.commands import TABLE, Command, cpu_seconds
from benchmarks.measure import Measure, Row, shown
from PIL import Image

from harness.config import compose
from harness.launch import report_from_root
from harness.plan import plan

FIGURES = """
import pickle
from pathlib import Path
import seaborn
from reports import _figures
for name, figure in _figures.every(*pickle.loads(Path("inputs").read_bytes())).items():
    figure.draw().savefig(f"figures/{name}.png", dpi=160, bbox_inches="tight")
"""


def page_with_figures(measure: Measure, seeds: int = 1) -> Row:
    """`report --out` of a finished Table 1 into an empty folder, over drawing its figures and saving them as PNG."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        finished_root.make(place / "runs", seeds)
        keys = [word for word in TABLE if "=" in word]
        made = plan.make([TABLE[0]], compose.compose("demo", keys), place / "runs", seeds)
        (review,) = report_from_root.look_up(made, (), place / "mlflow.db")
        (place / "inputs").write_bytes(pickle.dumps((review.rows, review.context)))
        whole: Command = (place, ("-m", "harness", "report", *TABLE, "--seeds", str(seeds), "--out", "page"))
        ours, floor = [], []
        for _ in range(measure.repeats):
            for folder in ("page", "figures"):
                shutil.rmtree(place / folder, ignore_errors=True)
            (place / "figures").mkdir()
            ours.append(cpu_seconds(whole))
            floor.append(cpu_seconds((place, ("-c", FIGURES))))
        number = _same_pixels(place / "figures", place / "page" / TABLE[0])
    taken, alone = statistics.median(ours), statistics.median(floor)
    reference = f"drawing its {number} PNGs alone: {shown(alone)}"
    setting = "Table 1, from the output directory, with panels"
    return Row("report --out", setting, shown(taken), reference, taken / alone, "times as long", high=1.5)


def _same_pixels(alone: Path, page: Path) -> int:
    """The number of figures; raises AssertionError where the report's differ."""
    paths = sorted(alone.glob("*.png"))
    assert [path.name for path in paths] == sorted(path.name for path in page.glob("*.png"))
    for path in paths:
        with Image.open(path) as one, Image.open(page / path.name) as other:
            assert np.array_equal(np.array(one.convert("RGB")), np.array(other.convert("RGB"))), path.name
    return len(paths)


ROWS: list[Callable[[Measure], Row]] = [page_with_figures]
