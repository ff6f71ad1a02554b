"""Confirm a search: its best setting and the default, trained on all training videos with several seeds, on val.

A search's best value is biased upwards, so its lead is taken from new trainings on data that no trial has seen. The two
are cells like those of any experiment; where another experiment has trained one of them, it is done.
"""

from dataclasses import replace
from pathlib import Path

from harness.common.errors import UsageError
from harness.common.progress import Progress
from harness.config.settings import RunOptions
from harness.launch import runner
from harness.plan import adoption
from harness.plan.cell import Cell
from harness.plan.plan import Experiment, Plan
from harness.plan.study import Study, Trial
from reports.search.finding import Confirmation

APART = {"data.hold_out": None, "train.evaluate_every": None, "train.evaluate_videos": None}


def plan(study: Study, best: Trial, seeds: int, root: Path) -> Plan:
    """Return the default and the best, each with its seeds, as an experiment. Raise UsageError for fewer than one."""
    if seeds < 1:
        raise UsageError(f"--confirm {seeds}: must be at least 1")
    whole = adoption.resolve(study.config.with_values(APART), root, True, Progress())
    first = whole["seed"]
    config = replace(whole, seeds=tuple(range(first, first + seeds)))
    cells = []
    for seed in config.seeds:
        for name, params, baseline in (("default", study.default, None), ("best", best.params, "default")):
            job = study.objective(config.with_values(params).with_seed(seed), "val")
            cells.append((seed, Cell(name, f"{name} ({study.label(params)})", job, over=baseline)))
    title = f"{study.title}: its best setting and the default, on val"
    return Plan((Experiment(f"search_{study.search}_confirmed", title, "comparison", config, tuple(cells)),), root)


def run(
    study: Study, best: Trial, seeds: int, root: Path, options: RunOptions, progress: Progress
) -> tuple[Confirmation | None, runner.Results]:
    """Train, evaluate and compare; None where a cell is not done. Raise Stopped after a signal."""
    done = runner.run(plan(study, best, seeds, root), options, progress)
    (finished,) = done.finished
    rows = {row.cell: row for row in finished.rows}
    ours, default = rows["best"], rows["default"]
    gain = ours.gain
    if gain.seeds < seeds:
        return None, done
    assert ours.miou is not None
    assert default.miou is not None
    assert gain.mean is not None
    confirmation = Confirmation(
        best=study.label(best.params),
        trial=best.number,
        seeds=seeds,
        ahead=sum(value > 0 for value in gain.by_seed.values()),
        miou=ours.miou,
        default=default.miou,
        gain=gain.mean,
        sd=gain.sd,
        low=gain.interval.low,
        high=gain.interval.high,
        interval_of=gain.interval.of,
    )
    return confirmation, done
