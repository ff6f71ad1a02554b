"""Table 2: does replacing P by the mask just predicted, once or several times, improve Decoder A?

Expected (VSPW val, single scale, BEiT-Large, 240 epochs): stage0 61.24, stage1 61.43, stage2 61.44, stage3 61.43.
Cost: no training beyond Table 1's Decoder A; each stage adds about 5 % to the FLOPs of its evaluation (BEiT-Large).
`stages=N` for another last stage, `variants=all` for Decoder B and A+B, whose members go on with their own masks. With
Table 1 in one command (`harness run ablation_ensemble ablation_stages`) both are read off one pass.
    harness run ablation_stages --preset paper data.vspw.root=DIR
"""

from harness.plan.cell import TRUTH, Cell, Config, Evaluate, Train, stages

TITLE = "Table 2 – Ablation study of multi-stage inference"
REPORT = "stages"


def cells(config: Config) -> list[Cell]:
    """Decoder A at stages 0 to N and with P = truth; then the same for each decoder of `extra`, B and A+B."""
    a, b = Train(config, "decoder_a"), Train(config, "decoder_b")
    rows = table(config, "", "Decoder A", Evaluate((a,)))
    for name in config["extra"]:
        rows += table(config, f"{name}_", name, Evaluate((Train(config, name),)))
    if config["variants"] == "all":
        rows += table(config, "decoder_b_", "Decoder B", Evaluate((b,)))
        rows += table(config, "decoder_ab_", "Decoder A+B", Evaluate((a, b)))
    return rows


def table(config: Config, prefix: str, method: str, start: Evaluate) -> list[Cell]:
    """Every stage of one model or ensemble, and with P = truth, for comparison."""
    zero = f"{prefix}stage0"
    rows = [
        Cell(f"{prefix}stage{s}", method, job, over=zero if s else None, label=f"{method}, stage {s}")
        for s, job in enumerate(stages(start, config["stages"]))
    ]
    truth = Evaluate(start.members, prior=TRUTH)
    return [*rows, Cell(f"{prefix}truth", method, truth, over=zero, label=f"{method}, P = ground truth")]
