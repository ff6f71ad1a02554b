"""Rows of `make bench` for data known by content: digesting small files, looking again, planning again.

    python tests/benchmarks/digests.py [--files 250000] [--repeats 3]

makes so many files of 4 kB in VSPW's layout and prints seconds and ratios.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests" / "support")]

from benchmarks.measure import Measure, Row, shown  # noqa: E402

from harness.data.datasets import vspw  # noqa: E402
from harness.data.manifest import take  # noqa: E402

SIZE = 4096  # bytes of a file
FRAMES = 100  # of a video: as many images and as many masks
PLAN = "from harness.cli import entry; entry()"
WITHOUT = f"from harness.data.datasets import vspw; del vspw.Dataset.split_files; {PLAN}"  # as before content counted


def make_files(root: Path, files: int) -> Path:
    """A data set of so many files, half of it train; what is in them is no picture."""
    videos = max(2, files // (2 * FRAMES))
    names = [f"{index:05d}" for index in range(videos)]
    for index, name in enumerate(names):
        block = hashlib.sha256(name.encode()).digest() * (SIZE // 32)
        for folder, suffix in (("origin", "jpg"), ("mask", "png")):
            (root / "data" / name / folder).mkdir(parents=True)
            for frame in range(FRAMES):
                head = f"{index} {folder} {frame:08d}".encode()
                (root / "data" / name / folder / f"{frame:08d}.{suffix}").write_bytes(head + block[len(head) :])
    (root / "train.txt").write_text("\n".join(names[: videos // 2]))
    (root / "val.txt").write_text("\n".join(names[videos // 2 :]))
    return root


def paths_of(root: Path) -> list[tuple[str, Path]]:
    """Name and path of every file of train and val."""
    data = vspw.Dataset(vspw.Config(root=str(root)))
    return [pair for split in ("train", "val") for pair in data.split_files(split)]


def hashed(path: Path) -> str:
    """A file's sha256 by hashlib alone."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def file_digests(measure: Measure, files: int = 10_000) -> Row:
    """Listing and digesting a data set into a new cache, against hashlib on two threads over paths that are there."""
    with tempfile.TemporaryDirectory() as folder:
        root = make_files(Path(folder) / "data", files)
        found = paths_of(root)
        paths = [path for _, path in found]

        def ours() -> None:
            (Path(folder) / "cache.npz").unlink(missing_ok=True)
            assert take(paths_of(root), Path(folder) / "cache.npz").pending == 0

        def reference() -> None:
            with ThreadPoolExecutor(2) as pool:
                assert all(pool.map(hashed, paths))

        mine, theirs = measure.seconds(ours, reference)
    setting = f"{len(found)} files of {SIZE} bytes"
    return Row(
        "digesting", setting, shown(mine), f"hashlib, 2 threads: {shown(theirs)}", mine / theirs, "times", high=1.5
    )


def second_look(measure: Measure, files: int = 10_000) -> Row:
    """Listing a data set and finding every digest in the cache, against a stat of every path."""
    with tempfile.TemporaryDirectory() as folder:
        root, cache = make_files(Path(folder) / "data", files), Path(folder) / "cache.npz"
        paths = [path for _, path in paths_of(root)]
        settle(root, cache)

        def ours() -> None:
            assert take(paths_of(root), cache, compute=False).digest

        def reference() -> None:
            for path in paths:
                os.stat(path)

        mine, theirs = measure.seconds(ours, reference)
    setting = f"{len(paths)} files"
    return Row("a second look", setting, shown(mine), f"a stat each: {shown(theirs)}", mine / theirs, "times")


def settle(root: Path, cache: Path) -> None:
    """Digest until all entries are trusted: files that were just made are not."""
    for _ in range(2):
        take(paths_of(root), cache)
    while take(paths_of(root), cache, compute=False).cached == "":
        pass


def second_plan(measure: Measure, files: int = 10_000) -> Row:
    """`harness plan` of data that is digested, as a command, against the same where a split is known by its list."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder) / "data", files)
        words = ["plan", "ablation_ensemble", "--preset", "paper", "data.vspw.root=data"]

        def run(code: str, *more: str) -> str:
            command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PROJECT)!r}); {code}", *words, *more]
            return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

        run(PLAN, "--check-data")
        while "not digested" in run(PLAN):  # pragma: no cover - a slow clock
            run(PLAN, "--check-data")
        mine, theirs = measure.seconds(lambda: run(PLAN), lambda: run(WITHOUT))
    setting = f"{files} files, the command as a whole"
    return Row(
        "a second plan", setting, shown(mine), f"by lists alone: {shown(theirs)}", mine / theirs, "times", high=1.2
    )


ROWS = [file_digests, second_look, second_plan]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows for a number of files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 250_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    for files in options.files:
        for row in ROWS:
            made = row(Measure(options.repeats), files)
            print(
                f"{made.name:<14} {made.setting:<32} {made.ours:>8}   {made.reference:<32} {made.ratio:.2f} "
                f"{made.unit} {made.wanted} {made.judged}",
                flush=True,
            )


if __name__ == "__main__":
    main()
