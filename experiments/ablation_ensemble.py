"""Table 1: does each memory decoder improve on UPerNet, and does their ensemble improve on both?

Expected (VSPW val, single scale, BEiT-Large, 240 epochs): UPerNet 60.02, A 61.24, B 61.18, A+B 62.12.
Cost at the paper's setting: three trainings of 42 000 iterations, about 17 GPU-hours each at 100 TFLOP/s.
    harness run ablation_ensemble --preset paper data.vspw.root=DIR
"""

from harness.core.spec import Cell, Config, Evaluate, Train

TITLE = "Table 1 – Ablation study of model ensemble"
REPORT = "comparison"


def cells(config: Config) -> list[Cell]:
    """The four rows of Table 1."""
    upernet, a, b = (Train(config, decoder) for decoder in ("upernet", "decoder_a", "decoder_b"))
    return [
        Cell("upernet", "UPerNet", Evaluate((upernet,))),
        Cell("decoder_a", "Decoder A", Evaluate((a,)), over="upernet"),
        Cell("decoder_b", "Decoder B", Evaluate((b,)), over="upernet"),
        Cell("decoder_ab", "Decoder A+B", Evaluate((a, b)), over="upernet"),
    ]
