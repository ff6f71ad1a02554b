"""`make bench`: what the exact fast forms and the one pass save, as ratios against named reference forms.

    python tests/benchmarks/bench.py [--rows NAME ...] [--repeats N] [--clock wall|cpu] [--threads N] [--json]

Both forms of a row run in turns in the same process and their medians are compared, so a busy machine moves both. With
`--clock cpu` the process's own seconds are taken, which other processes hardly move; use it with `--threads 1`.

A row is a function of rows.py (the model), costs.py, digests.py and evaluating.py (what stands around it), or
commands.py, reporting.py and searching.py (whole commands, by their own clock), in the list ROWS: sizes as keyword
arguments with the issue's sizes as defaults, so that a test can run it tiny. It returns what it measured, a Row.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests" / "support")]

from harness.launch.launchers._environment import child_environment  # noqa: E402

if __name__ == "__main__" and "GLIBC_TUNABLES" not in os.environ:  # as every rank has it, read when a process starts
    os.execve(sys.executable, [sys.executable, *sys.argv], child_environment())

import torch  # noqa: E402
from benchmarks import commands, costs, digests, evaluating, reporting, rows, searching  # noqa: E402
from benchmarks.measure import CLOCKS, Measure, Row  # noqa: E402
from tabulate import tabulate  # noqa: E402

ROWS = [
    *(*rows.ROWS, *costs.ROWS, *digests.ROWS, *evaluating.ROWS),
    *(*commands.ROWS, *searching.ROWS, *reporting.ROWS),
]


def table(rows: Sequence[Row]) -> str:
    """Rows for a terminal."""
    lines = [
        [row.name, row.setting, row.ours, row.reference, f"{row.ratio:.3g} {row.unit}", row.wanted, row.judged]
        for row in rows
    ]
    return tabulate(lines, ["row", "setting", "ours", "reference form", "ratio", "wanted", ""], disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows asked for; returns 1 where one misses its target."""
    names = [row.__name__ for row in ROWS]
    parser = argparse.ArgumentParser(prog="bench.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--repeats", type=int, default=5, help="runs of each form (default 5)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    measure = Measure(options.repeats, options.clock)
    found = []
    for row in ROWS:
        if row.__name__ in options.rows:
            print(f"{row.__name__} ...", end=" ", file=sys.stderr, flush=True)
            found.append(row(measure))
            print(f"{found[-1].ratio:.3g} {found[-1].unit} {found[-1].judged}", file=sys.stderr, flush=True)
    load = os.getloadavg()[0]
    if options.json:
        facts = {"clock": options.clock, "threads": options.threads, "repeats": options.repeats, "load": load}
        print(json.dumps({"schema": 1, **facts, "rows": [row.plain() for row in found]}, indent=1))
    else:
        print(table(found))
        print(f"\n{options.clock} clock, {options.threads} thread(s), medians of {options.repeats}; load {load:.1f}")
    return int(any(row.met is False for row in found))


if __name__ == "__main__":
    sys.exit(main())
