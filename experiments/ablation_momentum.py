"""How do the momentum m of Eq. 1, the weight of the new value, and its schedule affect Decoder A?

Expected: unknown; the paper leaves both open. The authors' public code has 0.9 with the learning rate's poly schedule,
and 0.1 fixed in its later form; seeds alone move mIoU by about 0.5. Cells are named SCHEDULE_MMM, m in thousandths;
m 0.9 with poly is Table 1's Decoder A.
Cost at the paper's setting: ten trainings of 42 000 iterations, about 17 GPU-hours each at 100 TFLOP/s; nine, after
Table 1.
    harness run ablation_momentum --seeds 3 --preset paper data.vspw.root=DIR
"""

from harness.plan.cell import Cell, Config, Evaluate, Train

TITLE = "Memory momentum – Decoder A under m and its schedule"
REPORT = "momentum"

MOMENTA = (0.01, 0.03, 0.1, 0.3, 0.9)
SCHEDULES = ("fixed", "poly")
BASE = "poly_900"  # what gains are over


def cells(config: Config) -> list[Cell]:
    """A row for each m under each schedule."""
    return [cell(config, momentum, schedule) for schedule in SCHEDULES for momentum in MOMENTA]


def cell(config: Config, momentum: float, schedule: str) -> Cell:
    """Decoder A with m and its schedule."""
    name = f"{schedule}_{round(1000 * momentum):03d}"
    options = {"decoder.decoder_a.momentum": momentum, "decoder.decoder_a.schedule": schedule}
    job = Evaluate((Train(config.with_values(options), "decoder_a"),))
    return Cell(name, f"m {momentum:g}, {schedule}", job, over=None if name == BASE else BASE)
