"""The challenge submission: what do stages, then several scales and mirroring, add to A+B?

Expected (VSPW test server, §5.3): 57.44 for the last row; its labels are not public, so it cannot be checked here.
The paper prints no number of these steps on val; how many stages the entry had it does not say (`stages`, 3).
Cost: no training beyond Table 1's; 64 windows a frame instead of 3, about 13 GPU-hours on val at 100 TFLOP/s.
    harness run final_framework --preset paper data.vspw.root=DIR
"""

from harness.plan.cell import Cell, Config, Evaluate, Train, stages

TITLE = "Final framework"
REPORT = "comparison"
SCALES = (0.75, 1.0, 1.25, 1.5, 1.75)  # the paper, §4, and mirrored; that §5.3's entry had them is our reading


def cells(config: Config) -> list[Cell]:
    """A+B on val, then one step more a row; the last on the test split, whose masks are packed for the server."""
    members = Train(config, "decoder_a"), Train(config, "decoder_b")
    start = Evaluate(members)
    many = Evaluate(members, scales=SCALES, flip=True)
    test = Evaluate(members, scales=SCALES, flip=True, split="test")
    last = config["stages"]
    return [
        Cell("decoder_ab", "Decoder A+B", start),
        Cell("stages", f"+ stage {last}", stages(start, last)[-1], over="decoder_ab"),
        Cell("scales", "+ multi-scale and flip", stages(many, last)[-1], over="decoder_ab"),
        Cell("test", "the same on test", stages(test, last)[-1], skip=config.content.absent.get("test")),
    ]
