"""Does using the previous frame improve on UPerNet, and is that due to the decoder, or would any two models do?

harness run my_table --seeds 3 --plugins docs/examples
"""

from harness.plan.cell import Cell, Config, Evaluate, Train

TITLE = "Frame difference over UPerNet"
REPORT = "my_report"  # or "comparison", our own tables


def cells(config: Config) -> list[Cell]:
    """One row each; a training that two rows share runs once."""
    upernet, mine = (Train(config, decoder) for decoder in ("upernet", "frame_difference"))
    return [
        Cell("upernet", "UPerNet", Evaluate((upernet,))),
        Cell("mine", "Frame difference", Evaluate((mine,)), over="upernet"),
        Cell("both", "Both", Evaluate((upernet, mine)), over="upernet"),
    ]
