"""The demo's breakdown at its smallest: it adds up, and the bare loop ends with the run's own weights and counts."""

import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks import demo

TINY = (
    *("data.synthetic.train_videos=2", "data.synthetic.val_videos=1", "data.synthetic.frames=2"),
    *("train.epochs=1", "train.batch=2", "train.frames_per_video=2"),
)


def test_the_parts_of_a_run_add_up_to_it_and_the_bare_loop_counts_the_same(tmp_path: Path) -> None:
    parts, run, alone = demo.once(TINY, tmp_path)
    names = [name for name, _ in parts]
    assert [name.split()[0] for name in names] == ["start:", "train", "train", "train", "the", "between", "end:"]
    assert sum(seconds for _, seconds in parts) == pytest.approx(run, abs=0.01)
    assert all(seconds >= 0 for _, seconds in parts)
    assert alone > 0

    path = min((tmp_path / "runs" / "jobs").glob("*/videos/*.npz"))  # a count that is another one is noticed
    counts = dict(np.load(path))
    counts["confusion"][0, 0] += 1
    np.savez(path, **counts)
    with pytest.raises(AssertionError, match=re.escape(str(path))):
        demo.bare(tmp_path / "runs")
