"""How wide should the frame difference be, and how fast should it learn?

harness search my_search --trials 12 --plugins docs/examples
"""

from harness.plan.search_space import Choice, Config, Evaluate, Named, Train, Uniform

TITLE = "Search for a width and a rate"
SPACE = {
    "decoder.frame_difference.channels": Choice((8, 16, 32)),
    "train.lr": Uniform(1e-4, 1e-2, log=True),
}
HOLD_OUT = 0.25  # share of the training videos that trials are scored on
SEEDS = 2  # of the default configuration, among the trials: a lead is compared with them
LOOKS = 2  # parts of a training; after each but the last it may be pruned
LOOK_VIDEOS = 4  # at most, for these decisions
SAMPLER = Named("TPESampler", {"n_startup_trials": 4})
PRUNER = Named("NopPruner")


def objective(config: Config, split: str) -> Evaluate:
    """Return the evaluation whose mIoU is to be maximised."""
    return Evaluate((Train(config, "frame_difference"),), split=split)
