"""Training masks that are void everywhere: the run says so and ends as unfit, on one rank and on two."""

import json
from pathlib import Path

import numpy as np
import one_model
import pytest
from command_line import harness
from PIL import Image
from vspw_files import make_vspw

SMALL = ("train.crop=32", "train.short_side=32", "train.epochs=2", "train.frames_per_video=4", "train.batch=2")


@pytest.mark.parametrize("ranks", [(), pytest.param(("--nproc", "2"), marks=pytest.mark.slow)])
def test_a_training_on_void_masks_fails(tmp_path: Path, ranks: tuple[str, ...]):
    make_vspw(tmp_path / "d", videos={"train": 4, "val": 1}, size=(32, 40))
    for path in (tmp_path / "d" / "data").glob("train_*/mask/*.png"):
        Image.fromarray(np.full((32, 40), 255, np.uint8)).save(path)
    words = ("run", one_model.FILE, "data.name=vspw", f"data.vspw.root={tmp_path / 'd'}", *SMALL, *ranks, "--offline")
    done = harness(tmp_path, *words)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "10 of 10 iterations had no labelled pixel" in done.stderr
    assert "no pixel was labelled in any of 16 iterations" in done.stderr
    assert "train_0000" in done.stderr
    (outcome,) = (json.loads(path.read_text()) for path in (tmp_path / "runs").glob("jobs/*/outcome.json"))
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 3)
    assert not list((tmp_path / "runs").glob("jobs/*/weights.safetensors"))
