"""Table 1: does each memory decoder improve on UPerNet, and does their ensemble improve on both?

Expected (VSPW val, single scale, BEiT-Large, 240 epochs): UPerNet 60.02, A 61.24, B 61.18, A+B 62.12.
Cost at the paper's setting: three trainings of 42 000 iterations, about 17 GPU-hours each at 100 TFLOP/s.
    harness run ablation_ensemble --preset paper data.vspw.root=DIR
"""

from harness.plan.cell import Cell, Config, Evaluate, Train

TITLE = "Table 1 – Ablation study of model ensemble"
REPORT = "comparison"


def cells(config: Config) -> list[Cell]:
    """The four rows of Table 1, then a row for each decoder of `extra`, then what `variants=all` adds."""
    upernet, a, b = (Train(config, decoder) for decoder in ("upernet", "decoder_a", "decoder_b"))
    rows = [
        Cell("upernet", "UPerNet", Evaluate((upernet,))),
        Cell("decoder_a", "Decoder A", Evaluate((a,)), over="upernet"),
        Cell("decoder_b", "Decoder B", Evaluate((b,)), over="upernet"),
        Cell("decoder_ab", "Decoder A+B", Evaluate((a, b)), over="upernet"),
    ]
    rows += [Cell(name, name, Evaluate((Train(config, name),)), over="upernet") for name in config["extra"]]
    return rows + (variants(config, upernet, a, b) if config["variants"] == "all" else [])


def variants(config: Config, upernet: Train, a: Train, b: Train) -> list[Cell]:
    """Other ensembles, from the same passes: is A+B's gain that of two decoders, or that of any two models?"""
    rows = [
        Cell("upernet_a", "UPerNet + A", Evaluate((upernet, a)), over="upernet"),
        Cell("upernet_b", "UPerNet + B", Evaluate((upernet, b)), over="upernet"),
        Cell("upernet_ab", "UPerNet + A + B", Evaluate((upernet, a, b)), over="upernet"),
    ]
    other = config.next_seed()  # the controls: the same decoder twice, trained with two seeds
    if other is None and len(config.seeds) > 1:  # the last seed: its pair stands with the one before
        return rows
    skip = "needs one more seed: --seeds 2" if other is None else None
    again_upernet, again_a = (Train(other or config, decoder) for decoder in ("upernet", "decoder_a"))
    return [
        *rows,
        Cell("upernet_upernet", "UPerNet + UPerNet′", Evaluate((upernet, again_upernet)), over="upernet", skip=skip),
        Cell("a_a", "A + A′", Evaluate((a, again_a)), over="upernet", skip=skip),
    ]
