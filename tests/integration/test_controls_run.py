"""The positive control and its null twin, as a person runs them: signs, never sizes.

Minutes each; CPU seconds are printed, a speed is never asserted.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DECODERS = ("decoder_a", "decoder_b")
WITHOUT_MECHANISM = ("decoder_a_no_context", "decoder_b_current_past", "decoder_b_no_tma")


def rows(folder: Path, experiment: str, *words: str) -> dict[str, dict[str, Any]]:
    """Return cell -> row of what `harness run EXPERIMENT --json` prints; jobs that `folder` has are not run again."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-P", "-m", "harness", "run", experiment, *words, "--offline", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\n{' '.join((experiment, *words))}: {seconds:.0f} CPU seconds")
    assert done.returncode == 0, done.stderr[-2000:]
    (table,) = json.loads(done.stdout)["experiments"]
    for row in table["rows"]:
        print(row["cell"], row["miou"], row["gain"], row["gain_low"], row["gain_high"])
    return {row["cell"]: row for row in table["rows"]}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory of the runs with the preset control, which share trainings."""
    return tmp_path_factory.mktemp("control")


def test_both_decoders_gain_where_time_has_something_to_say(control: Path) -> None:
    table = rows(control, "ablation_ensemble", "--preset", "control", "--seeds", "3")
    for decoder in DECODERS:
        assert table[decoder]["gain_low"] > 0, decoder


def test_the_gain_goes_with_the_mechanism(control: Path) -> None:
    table = rows(control, "ablation_controls", "--preset", "control")
    full = min(table[decoder]["miou"] for decoder in DECODERS)
    for cell in WITHOUT_MECHANISM:
        lost = table["upernet"]["miou"] + (full - table["upernet"]["miou"]) / 2
        assert table[cell]["miou"] < lost, cell


def test_neither_gains_on_the_null_twin(tmp_path: Path) -> None:
    table = rows(tmp_path, "ablation_ensemble", "--preset", "control_null", "--seeds", "3")
    for decoder in DECODERS:
        assert table[decoder]["gain_low"] <= 0 <= table[decoder]["gain_high"], decoder
