"""The harness from Python: plan, run, results as a frame, and masks of frames.

    from harness import api

    frame = api.run("ablation_ensemble", "train.epochs=3", seeds=2)
    frame = api.results("runs")                                        # all that an output directory knows
    masks = list(api.segment(["runs/jobs/0123456789abcdef"], frames))  # frames: (H, W, 3) uint8 arrays, in time

Nothing is printed but the log; errors are harness.common.errors.HarnessError with one line that says what to do.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import HarnessError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from harness.plan.plan import Plan

__all__ = ["HarnessError", "plan", "results", "run", "segment"]


def plan(
    *words: str,
    preset: str | None = None,
    root: str | os.PathLike[str] | None = None,
    seeds: int = 1,
    plugins: Sequence[str | os.PathLike[str]] = (),
) -> "Plan":
    """Return what `harness plan` shows: `words` are experiments and KEY=VALUE as on the command line.

    `plan.jobs` are the jobs, `plan.state(job)` is "done" or "missing". Data files are digested, as by a run. What is
    not given is taken from harness.yaml, else as the command line has it. Raise UsageError or UnfitError.
    """
    from harness.cli.parse import make_plan

    folders = [Path(folder) for folder in plugins] or None
    return make_plan(list(words), seeds, preset, None if root is None else Path(root), folders)[0]


def run(
    *words: str,
    preset: str | None = None,
    root: str | os.PathLike[str] | None = None,
    seeds: int = 1,
    plugins: Sequence[str | os.PathLike[str]] = (),
    launcher: str | None = None,
    nproc: int | None = None,
    offline: bool = False,
) -> "pd.DataFrame":
    """Run what is missing, as `harness run` does, and return the results as a frame, one row a cell and seed.

    Its columns are those that a file of reports/ receives (harness.results.frame). A job that fails leaves a row with
    status "failed" and its reason. Raise UsageError, UnfitError or Stopped.
    """
    import pandas as pd

    from harness.cli.parse import make_plan
    from harness.common.progress import Progress
    from harness.common.signals import stop_signals
    from harness.config.settings import RunOptions
    from harness.launch import runner
    from harness.results.frame import to_frame

    folders = [Path(folder) for folder in plugins] or None
    output_dir = None if root is None else Path(root)
    planned, settings = make_plan(list(words), seeds, preset, output_dir, folders, launcher=launcher, nproc=nproc)
    if settings.launcher == "slurm":
        raise UsageError("launcher=slurm: use `harness run` to submit Slurm jobs; harness.api runs on this machine")
    flags = {"--preset": planned.config.preset, "--root": settings.root, "--seeds": seeds}
    command = ["harness", "run", *words, *(str(word) for pair in flags.items() for word in pair)]
    command += [word for folder in plugins for word in ("--plugins", str(folder))]
    options = RunOptions.of(settings.settings, offline=offline, command=tuple(command))
    with stop_signals(), Progress() as progress:
        finished = runner.run(planned, options, progress).finished
    return pd.concat([to_frame(result for row in done.rows for result in row.runs) for done in finished])


def results(source: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return every result of an output directory as a frame, one row a cell and seed of each plan that was run there.

    Columns are those that a file of reports/ receives; `plan` is the plan's digest. A plan that today's code or
    plug-ins would plan otherwise is left out, with a line in the log. Raise UsageError where there are no plans.
    """
    import logging

    import pandas as pd

    from harness.launch import report_from_root
    from harness.plan import saved_plans
    from harness.results.frame import to_frame

    root, frames = Path(source), []
    for planned, refusal in saved_plans.plans(root):
        if planned is None:
            logging.getLogger(__name__).warning(refusal)
            continue
        (experiment,) = planned.experiments
        frame = to_frame(report_from_root.review(planned, experiment, (), None).results)
        frames.append(frame.assign(plan=experiment.digest))
    if not frames:
        raise UsageError(f"{root}: no plan was run in this directory; give the output directory of `harness run`")
    return pd.concat(frames, ignore_index=True)


def segment(
    checkpoints: Sequence[str | os.PathLike[str]], frames: "Iterable[NDArray[np.uint8]]", stage: int = 0
) -> "Iterator[NDArray[np.uint8]]":
    """Yield the mask (H, W) of class indices for each frame (H, W, 3) of one video, in time.

    `checkpoints` are directories of finished trainings, several are an ensemble; what the decoders know of earlier
    frames is theirs, so begin anew for another video. `stage` is how often P is replaced by the mask before (Table 2).
    Raise UsageError or UnfitError.
    """
    from harness.tools import predict

    model = predict.load([Path(folder) for folder in checkpoints], stage)
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != "uint8":
            raise UsageError(f"a frame must be (H, W, 3) of uint8, not {frame.shape} of {frame.dtype}")
        yield predict.segment(model, frame, stage)
