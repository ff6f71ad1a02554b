"""What an evaluation's frame took, in cost.json: parameters and FLOPs of its models, seconds of their predictions.

Pixels are decoded by then, and nothing is counted or written in that time: a table's frames a second are the models',
with all windows, views and stages, on one rank.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.common.atomic_files import write_json
from harness.engine import flops, jobs
from harness.jobdir.paths import JobDir
from harness.plan.spec import EvaluateSpec
from models.segmentor import Segmentor


class Pace(NamedTuple):
    """Frames that were predicted, and the seconds that took."""

    frames: int = 0
    seconds: float = 0.0

    def plus(self, frames: int, seconds: float) -> "Pace":
        """Return both added up."""
        return Pace(self.frames + frames, self.seconds + seconds)


def write(folder: Path, job: EvaluateSpec, members: Sequence[Segmentor], frame_flops: int, pace: Pace) -> None:
    """Write an evaluation's cost.json; `frame_flops` are of all members."""
    parameters = sum(flops.size(member) for member in members)
    jobs.ours(folder, job)()
    write_json(JobDir(folder).cost_file, {**pace._asdict(), "flops": frame_flops, "parameters": parameters})
