"""A row of `make bench` for a whole study: trials by two workers on one machine, against two bare loops."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measure, Row, shown

from harness.launch.launchers._environment import child_environment

HERE = Path(__file__)
# Every trial is trained to its end, without evaluations in between: the bare loops then do the same work.
SEARCH = """from experiments.searches.momentum import *
from harness.plan.search_space import Named
LOOKS, REPEATS, PRUNER = 1, 0, Named("NopPruner", {})
"""


@dataclass
class Spent:
    """Seconds of some processes: by the clock, and of processors."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def spent() -> Iterator[Spent]:
    """Yield what child processes take meanwhile."""
    seconds, before, begun = Spent(), resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds.wall = time.perf_counter() - begun
    seconds.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def study_workers(measure: Measure, trials: int = 24, words: Sequence[str] = ()) -> Row:
    """`harness search` with two workers; the bare loops train and evaluate half of its trials each, one run of both."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "plain.py").write_text(SEARCH)
        command = ["-m", "harness", "search", "plain.py", "--trials", str(trials), "--workers", "2", *words]
        environment = {**child_environment(), "HARNESS_THREADS": "1"}
        with spent() as study:
            subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True)
        with spent() as bare:
            loops = [
                subprocess.Popen(
                    [sys.executable, HERE.with_name("demo.py"), "--bare", "runs", "--share", f"{share}/2"],
                    cwd=folder,
                    env=environment,
                )
                for share in range(2)
            ]
            codes = [loop.wait() for loop in loops]
        if any(codes):
            raise RuntimeError("a bare loop failed")
    ours, floor = (seconds.cpu if measure.clock == "cpu" else seconds.wall for seconds in (study, bare))
    cpu = f"{shown(study.cpu)} over {shown(bare.cpu)} of processors"
    return Row(
        "a study, two workers",
        f"{trials} trials of the demo {' '.join(words)}".strip(),
        f"{shown(ours)} ({cpu})",
        f"two bare loops: {shown(floor)}",
        ours / floor,
        "times as long",
        high=1.1,
    )


ROWS: list[Callable[[Measure], Row]] = [study_workers]
