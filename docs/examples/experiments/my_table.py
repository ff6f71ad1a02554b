"""Does a look at the frame before improve on UPerNet, and is that of the decoder or of any two models?

harness run my_table --seeds 3 --plugins docs/examples
"""

from harness.plan.cell import Cell, Config, Evaluate, Train

TITLE = "Frame difference over UPerNet"
REPORT = "my_report"  # or "comparison", the tables of ours


def cells(config: Config) -> list[Cell]:
    """One row each; a training that two rows share runs once."""
    upernet, mine = (Train(config, decoder) for decoder in ("upernet", "frame_difference"))
    return [
        Cell("upernet", "UPerNet", Evaluate((upernet,))),
        Cell("mine", "Frame difference", Evaluate((mine,)), over="upernet"),
        Cell("both", "Both", Evaluate((upernet, mine)), over="upernet"),
    ]
