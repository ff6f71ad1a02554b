"""A run that is refused leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import pytest
from one_model import made

from harness.common.errors import UnfitError
from harness.common.progress import SILENT
from harness.config.settings import RunOptions
from harness.launch import runner
from harness.plan import saved_plans
from harness.plan.plan import Plan


def test_a_run_that_is_refused_leaves_no_plan(tmp_path: Path) -> None:
    (experiment,) = made(tmp_path / "other").experiments
    config = replace(experiment.config, content=replace(experiment.config.content, missing=("no data",)))
    planned = Plan((replace(experiment, config=config),), tmp_path)
    with pytest.raises(UnfitError, match="no data"):
        runner.run(planned, RunOptions(), SILENT)
    there = Plan((experiment,), tmp_path)
    with pytest.raises(UnfitError, match="MLflow"):
        runner.run(there, RunOptions(launcher="inline", tracking_uri="http://127.0.0.1:9"), SILENT)
    assert saved_plans.digests(tmp_path) == []
