"""What `--rerun` names: finished jobs of a cell, or those whose sources changed, and all that rests on them."""

from pathlib import Path

import finished_root
import pytest

from harness import execute
from harness.core.errors import UsageError


def test_a_cell_its_training_and_what_rests_on_it_are_run_again(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, videos=2)
    names = [job.name for job in execute.selected(made, "decoder_a")]
    assert len(names) == 3  # its training, A and A+B
    assert all("decoder_a" in name for name in names)
    moved: list[str] = []
    execute.set_aside(made, "decoder_a", moved.append)
    assert len(moved) == len(list((tmp_path / "replaced").iterdir())) == 3
    assert [made.state(job) for job in made.jobs].count("done") == 4


def test_a_word_that_is_no_cell_is_answered_with_those_there_are(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, videos=2)
    with pytest.raises(UsageError, match=r"neither 'changed' nor a cell of this plan: upernet, decoder_a"):
        execute.selected(made, "decoder_c")
