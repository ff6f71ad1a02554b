"""The sections that every configuration has: training, prediction and reports.

Fields marked `where` (paths, workers, intervals of checkpoints) are needed to run a job and stay out of its identity.
A field that is None is left out of the identity as well, so a new field that defaults to None moves no fingerprint.
"""

from dataclasses import dataclass, field
from typing import Literal

from harness.config.training_options import COUNT, WHERE, TrainingOptions

NOT_NEGATIVE, SHARE = {"range": "[0, inf)"}, {"range": "[0, 1]"}


@dataclass(frozen=True)
class TrainConfig(TrainingOptions):
    """Options of training (science: paper §5.1, UNI's BEiT configuration where the paper is silent)."""

    epochs: int = field(default=240, metadata=COUNT)
    batch: int = field(default=16, metadata=COUNT)  # images per optimiser step
    # images that share BN statistics; None: the whole batch
    micro_batch: int | None = field(default=None, metadata=COUNT)
    frames_per_video: int = field(default=1, metadata=COUNT)  # frames drawn of each video per epoch
    crop: int = field(default=512, metadata=COUNT)  # pixels, also the side of a test window
    short_side: int = field(default=512, metadata=COUNT)  # pixels, before random scaling by 0.5 to 2
    lr: float = field(default=2e-5, metadata=NOT_NEGATIVE)
    weight_decay: float = field(default=0.05, metadata=NOT_NEGATIVE)
    layer_decay: float = field(default=0.95, metadata=SHARE)
    warmup: int = field(default=1500, metadata=NOT_NEGATIVE)  # iterations
    workers: int = field(default=2, metadata=WHERE | NOT_NEGATIVE)
    checkpoint_every: int = field(default=500, metadata=WHERE | COUNT)  # iterations
    log_every: int = field(default=10, metadata=WHERE | COUNT)  # iterations
    evaluate_every: int | None = field(default=None, metadata=WHERE | COUNT)  # iterations; None: not before the end
    evaluate_split: str = field(default="dev", metadata=WHERE)  # of these evaluations
    # at most, spread over the split; None: all
    evaluate_videos: int | None = field(default=None, metadata=WHERE | COUNT)


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of prediction; scales, flip and stages belong to an experiment's cells."""

    window: int | None = field(default=None, metadata=COUNT)  # pixels; None: the crop
    stride: int | None = field(default=None, metadata=COUNT)  # pixels; None: two thirds of the window (341 of 512)
    short_side: int | None = field(default=None, metadata=COUNT)  # pixels; None: frames at their own size
    # views whose short side is below the window; None: enlarged to it where scales are tested, padded at scale 1 alone
    small_views: Literal["enlarge", "pad"] | None = None
    # windows that the encoder sees at a time, on a GPU for speed; None: one
    window_batch: int | None = field(default=None, metadata={"range": "[2, inf)"})
    keep_masks: bool = field(default=False, metadata=WHERE)  # also of a split with labels, in the job's directory
    # a job's directory with its masks, which the stage after it takes as P instead of computing them again
    prior_masks: str | None = field(default=None, metadata=WHERE)
    # which video consistency tables print, both are counted; None: official (metrics.Consistency)
    vc: Literal["official", "strict"] | None = field(default=None, metadata=WHERE)
    # beside those that are always there; only the counts of one with its own enter an identity (plan/job)
    metrics: tuple[str, ...] = field(default=(), metadata=WHERE)


COST_COLUMNS = ("parameters", "gflops", "fps", "memory")


@dataclass(frozen=True)
class ReportConfig:
    """Options of reports; no job depends on it."""

    # points of mIoU: "no difference" where the interval lies between -margin and +margin
    margin: float = field(default=0.3, metadata={"range": "(0, inf)"})
    columns: tuple[str, ...] = ()  # of COST_COLUMNS: what a frame costs, in the main table too
    svg: bool = False  # figures as SVG, too, and in the page as such
