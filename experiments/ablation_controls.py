"""What does each part of Decoders A and B contribute: the memory, its rows, P, earlier frames, or the parameters alone?

Expected: unknown, the paper has 0 such rows. If a part does what the paper says, its control lies below the decoder; a
control level with it says that the gain over UPerNet has another source. Controls of A are over A, those of B over B.
Cost at the paper's setting: eleven trainings of 42 000 iterations, about 17 GPU-hours each at 100 TFLOP/s; eight, after
Table 1. Rows named "evaluated with" train nothing: they take a part of a trained decoder away.
    harness run ablation_controls --seeds 3 --preset paper data.vspw.root=DIR
"""

import json

from harness.plan.cell import TRUTH, Cell, Config, Evaluate, Train

TITLE = "Controls – what each part of A and B contributes"
REPORT = "comparison"


def cells(config: Config) -> list[Cell]:
    """UPerNet, also as wide as A and B; then each decoder with its controls."""
    rows = [
        Cell("upernet", "UPerNet", Evaluate((Train(config, "upernet"),))),
        *(wide(config, name, letter) for name, letter in (("decoder_a", "A"), ("decoder_b", "B"))),
    ]
    return rows + controls_of_a(config) + controls_of_b(config)


def wide(config: Config, name: str, letter: str) -> Cell:
    """UPerNet with as many parameters as another decoder."""
    options = {key: value for key, value in config["decoder"][name].items() if value is not None}
    other = json.dumps({"name": name, "config": options}, sort_keys=True)
    job = Train(config.with_values({"decoder.upernet.as_large_as": other}), "upernet")
    return Cell(f"upernet_{letter.lower()}", f"UPerNet, as large as {letter}", Evaluate((job,)), over="upernet")


def controls_of_a(config: Config) -> list[Cell]:
    """Decoder A, without its parts in training, then in evaluation alone."""
    a = Evaluate((Train(config, "decoder_a"),))
    with_ground_truth = {name: Evaluate(a.members, prior=name) for name in (TRUTH, "truth_before", "truth_other")}
    rows = [
        ("no_context", "A without C_bi", trained(config, "decoder_a", "no_context")),
        ("no_memory", "A, g_o(g_q(R)) as C_bi", trained(config, "decoder_a", "no_memory")),
        ("random_memory", "A, M frozen at random rows", trained(config, "decoder_a", "random_memory")),
        ("permuted", "A, evaluated with M permuted", Evaluate(a.members, control="permuted_memory")),
        ("uniform", "A, evaluated with P every class once", Evaluate(a.members, control="uniform_prior")),
        ("other", "A, evaluated with P of a random other frame", with_ground_truth["truth_other"]),
        ("before", "A, evaluated with P = ground truth of N−1", with_ground_truth["truth_before"]),
        ("truth", "A, evaluated with P = ground truth", with_ground_truth[TRUTH]),
    ]
    return [Cell("decoder_a", "Decoder A", a, over="upernet"), *under("decoder_a", rows)]


def controls_of_b(config: Config) -> list[Cell]:
    """Decoder B likewise; without temporal attention it is A that reads with its own mask."""
    b = Evaluate((Train(config, "decoder_b"),))
    own = Train(config.with_values({"decoder.decoder_a.prior": "current_coarse"}), "decoder_a")
    rows = [
        ("no_memory", "B without the memory, TMA as C_bi", trained(config, "decoder_b", "no_memory")),
        ("no_tma", "B without TMA, A with its own mask", Evaluate((own,))),
        ("current_past", "B, the current frame as its past", trained(config, "decoder_b", "current_past")),
        ("past", "B, evaluated with the current frame as its past", Evaluate(b.members, control="current_past")),
        ("truth", "B, evaluated with P = ground truth", Evaluate(b.members, prior=TRUTH)),
    ]
    return [Cell("decoder_b", "Decoder B", b, over="upernet"), *under("decoder_b", rows)]


def trained(config: Config, decoder: str, control: str) -> Evaluate:
    """A decoder that was trained without one of its parts."""
    return Evaluate((Train(config.with_values({f"decoder.{decoder}.control": control}), decoder),))


def under(decoder: str, rows: list[tuple[str, str, Evaluate]]) -> list[Cell]:
    """Controls as rows over the decoder that they are of."""
    return [Cell(f"{decoder}_{name}", method, job, over=decoder) for name, method, job in rows]
