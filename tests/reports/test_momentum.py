"""The ablation's report: what it says of the best m, and the curve."""

import pytest

from harness.core.figure import render as drawn
from harness.core.results import CellResult, Context, build
from reports import momentum

CONTEXT = Context("ablation_momentum", "Memory momentum", "demo", "synthetic", False, ("data: synthetic",))
BASE = "poly_900"


def cell(name: str, seed: int, miou: float) -> CellResult:
    over = None if name == BASE else BASE
    return CellResult("ablation_momentum", name, f"label {name}", seed, "done", miou=miou, baseline=over)


def frame(best: float, seeds: int):
    values = {"fixed_010": 38.0, "fixed_100": best, "poly_100": 39.0, BASE: 40.0}
    return build(cell(name, seed, value + seed % 3) for name, value in values.items() for seed in range(seeds))


@pytest.mark.parametrize(
    ("best", "seeds", "told"),
    [
        (43.0, 3, "label fixed_100, 44.00 mIoU, +3.00 over label poly_900; the default's spread over 3 seeds is 1.00."),
        (40.5, 3, "spread over 3 seeds is 1.00: not distinguishable."),
        (43.0, 1, "one seed, so the spread that a lead would have to exceed is not known"),
        (39.5, 3, "label poly_900, 41.00 mIoU, which is the default."),
    ],
)
def test_what_it_amounts_to(best: float, seeds: int, told: str) -> None:
    assert told in momentum.render(frame(best, seeds), CONTEXT).notes[-1]


def test_the_curve_has_every_point_in_its_text_and_is_drawn() -> None:
    figure = momentum.render(frame(43.0, 3), CONTEXT).figures["momentum"]
    assert "fixed: 0.01 39.00, 0.1 44.00; poly: 0.1 40.00, 0.9 41.00" in figure.alt
    assert drawn(figure)["png"].startswith(b"\x89PNG")


def test_cells_of_another_name_stand_in_the_table_alone() -> None:
    made = momentum.render(build([cell("fixed_010", 0, 38.0), cell("mine", 0, 44.0)]), CONTEXT)
    assert "momentum" not in made.figures
    assert len(made.tables["ablation_momentum"].rows) == 2
