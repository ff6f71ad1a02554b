"""An experiment of one training and one evaluation, and the root that running it would leave, without torch.

As an experiment's file it has TITLE, REPORT and cells; as a helper it writes journals and outcomes by hand.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.atomic_files import write_json
from harness.config import compose as configuration
from harness.config import input_digests
from harness.jobdir.events import Event, parse_event
from harness.plan import plan, saved_plans
from harness.plan.cell import Cell, Config, Evaluate, Train
from harness.plan.job import Job
from harness.plan.plan import Plan
from harness.plan.spec import to_json

TITLE = "One model"
REPORT = "comparison"
FILE = str(Path(__file__).resolve())
TINY = (
    "data.synthetic.train_videos=2",
    "data.synthetic.val_videos=2",
    "data.synthetic.frames=2",
    "train.epochs=1",
    "train.batch=2",
    "train.frames_per_video=2",
    "train.checkpoint_every=1",
)


def cells(config: Config) -> list[Cell]:
    """UPerNet alone."""
    return [Cell("upernet", "UPerNet", Evaluate((Train(config, "upernet"),)))]


def made(root: Path, *overrides: str) -> Plan:
    """The plan, kept in the root as a run keeps it."""
    planned = plan.make([FILE], configuration.compose("demo", [*TINY, *overrides]), root)
    saved_plans.keep(planned, ("harness", "run", FILE))
    return planned


def begun(planned: Plan, job: Job, how: dict[str, Any] | None = None) -> Path:
    """A job's directory as a supervisor prepares it."""
    folder = planned.directory(job)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.yaml", to_json(job.spec()))
    write_json(folder / "how.json", {"made": "1" * 32, "launcher": "inline", "commit": "abc", **(how or {})})
    return folder


def say(folder: Path, *events: dict[str, Any]) -> None:
    """Add to a job's journal."""
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def events_of(events: Sequence[dict[str, Any]]) -> list[Event]:
    """Events as a supervisor reads them from a journal."""
    return [event for line in events if (event := parse_event(json.dumps(line))) is not None]


def attempt(start: int, steps: Sequence[int], saved: int | None, at: float, total: int = 10) -> list[dict[str, Any]]:
    """One attempt's events: a metric a step, and a checkpoint after step `saved`; `at`: unix seconds of its begin."""
    events: list[dict[str, Any]] = [{"event": "begin", "time": at, "step": start, "steps": total, "unit": "iterations"}]
    for step in steps:
        values = {"train/loss": 1 / step, "time/iterations_per_second": 2.0}
        events.append({"event": "metrics", "time": at + step, "step": step, "values": values})
        if step == saved:
            events.append({"event": "checkpoint", "time": at + step + 0.5, "step": step})
    return events


def end(folder: Path, status: str, reason: str | None = None) -> None:
    """A job's outcome."""
    outcome = {"status": status, "reason": reason, "exit_code": 0, "seconds": 5.0}
    outcome["provenance"] = {"device": "cpu", "threads": 1, "world": 1, "versions": {"torch": "2.15.0"}}
    write_json(folder / "outcome.json", outcome)


def finished(planned: Plan) -> None:
    """The whole plan as if it had been run: a training of ten steps, an evaluation of two videos."""
    (training,) = (job for job in planned.jobs if isinstance(job, Train))
    folder = begun(planned, training)
    say(folder, *attempt(0, range(1, 11), 10, 1_800_000_000.0), {"event": "end", "time": 1_800_000_020.0})
    end(folder, "finished")
    evaluated(planned)


def evaluated(planned: Plan) -> None:
    """The evaluation of a plan, with numbers of its own for each video."""
    (evaluation,) = (job for job in planned.jobs if isinstance(job, Evaluate))
    folder = begun(planned, evaluation)
    dataset = input_digests.build_dataset(evaluation.config)
    random = np.random.default_rng(0)
    (folder / "videos").mkdir(exist_ok=True)
    for video in dataset.videos("val"):
        confusion = random.integers(1, 99, (len(dataset.classes),) * 2)
        np.savez(folder / "videos" / f"{video}.npz", confusion=confusion)
    end(folder, "finished")


T0 = 1_800_000_000.0
EVENTS = [  # of a training that was killed and went on
    *attempt(0, range(1, 8), 4, T0),  # killed after step 7: 5, 6 and 7 are void
    *attempt(4, range(5, 11), 10, T0 + 1000),
    {"event": "end", "time": T0 + 1020, "status": "finished"},
]
