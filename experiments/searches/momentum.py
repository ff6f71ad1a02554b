"""Which momentum m of Eq. 1, under which schedule, is best for Decoder A?

m is the weight of the new value; the paper leaves it and its schedule open. Trials are scored on training videos held
out (`dev`), so val stays untouched until `--confirm`: the best of many noisy trials looks better than it is.
Cost at the paper's setting: 24 trials of at most 37 900 iterations, about 15 GPU-hours each; pruning saves about half.
    harness search momentum --trials 24 --workers 8 --preset paper data.vspw.root=DIR
"""

from harness.plan.search_space import Choice, Config, Evaluate, Named, Train, Uniform

TITLE = "Search for the memory momentum"

SPACE = {  # one more line adds a key
    "decoder.decoder_a.momentum": Uniform(0.005, 0.9, log=True, label="m"),
    "decoder.decoder_a.schedule": Choice(("fixed", "poly")),
}
HOLD_OUT = 0.1  # share of the training videos that trials are scored on
SEEDS = 3  # of the default configuration, among the trials: what a lead is measured against
REPEATS = 2  # of the best settings, repeated under the default's other seeds by the last trials; 0: none
LOOKS = 9  # parts of a training; after each but the last it may be pruned
LOOK_VIDEOS = 24  # at most, for these decisions; the score takes all of dev
SAMPLER = Named("TPESampler", {"n_startup_trials": 8})
PRUNER = Named("HyperbandPruner", {"min_resource": 1, "max_resource": LOOKS, "reduction_factor": 3})


def objective(config: Config, split: str) -> Evaluate:
    """The evaluation whose mIoU is searched for the most of."""
    return Evaluate((Train(config, "decoder_a"),), split=split)
