"""The ablation's report: what it says of the best m, and the curve."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.config.compose import compose
from harness.plan import plan
from harness.results import metrics, stats
from harness.results.figure import render as drawn
from harness.results.frame import summary, to_frame
from harness.results.rows import CellResult, Context
from reports import momentum

CONTEXT = Context("ablation_momentum", "Memory momentum", "demo", "synthetic", False, ("data: synthetic",))
BASE = "poly_900"


def cell(name: str, seed: int, miou: float) -> CellResult:
    over = None if name == BASE else BASE
    return CellResult("ablation_momentum", name, f"label {name}", seed, "done", miou=miou, baseline=over)


def frame(best: float, seeds: int):
    values = {"fixed_010": 38.0, "fixed_100": best, "poly_100": 39.0, BASE: 40.0}
    return to_frame(cell(name, seed, value + seed % 3) for name, value in values.items() for seed in range(seeds))


@pytest.mark.parametrize(
    ("best", "seeds", "told"),
    [
        (
            46.0,
            3,
            "+6.00 over label poly_900; the best of 3 equal configurations leads by up to 5.11, by the spread over "
            "3 seeds.",
        ),
        (43.0, 3, "leads by up to 5.11, by the spread over 3 seeds: not distinguishable."),
        (
            43.0,
            1,
            "4 configurations between 38.00 (label fixed_010) and 43.00 (label fixed_100) mIoU, one seed each: they",
        ),
        (39.5, 3, "label poly_900, 41.00 mIoU, which is the default."),
    ],
)
def test_what_it_amounts_to(best: float, seeds: int, told: str) -> None:
    assert told in momentum.render(frame(best, seeds), CONTEXT).notes[-1]


def test_the_curve_has_every_point_in_its_text_and_is_drawn() -> None:
    figure = momentum.render(frame(43.0, 3), CONTEXT).figures["momentum"]
    assert "fixed: 0.01 39.00, 0.1 44.00; poly: 0.1 40.00, 0.9 41.00" in figure.alt
    forms = drawn(figure, svg=True)
    assert forms["png"].startswith(b"\x89PNG")
    assert b"<svg" in forms["svg"]


@pytest.mark.parametrize(("seeds", "noise", "told"), [(1, 0.5, "as assumed"), (3, 1 / 3**0.5, "default ± 0.58")])
def test_the_axis_holds_a_band_of_seed_noise(seeds: int, noise: float, told: str) -> None:
    values = {"fixed_010": 40.02, BASE: 40.0}
    close = to_frame(cell(name, seed, value + seed % 3) for name, value in values.items() for seed in range(seeds))
    figure = momentum.render(close, CONTEXT).figures["momentum"]
    (axis,) = figure.draw().axes
    low, high = axis.get_ylim()
    middle = 40.0 if seeds == 1 else 41.0
    assert low < middle - noise
    assert high > middle + noise
    assert told in figure.alt
    assert not momentum.render(frame(43.0, 1), CONTEXT).tables["ablation_momentum"].bold


def counted(name: str, seed: int, skill: int) -> CellResult:
    """A cell with a confusion matrix for each of enough videos."""
    rng = np.random.default_rng(seed)
    eye = np.eye(4, dtype=np.int64)
    videos = {f"v{n}": skill * eye + rng.integers(1, 40, (4, 4)) for n in range(stats.FEWEST)}
    miou = 100 * metrics.miou(sum(videos.values(), 0 * eye))
    over = None if name == BASE else BASE
    return CellResult("ablation_momentum", name, name, seed, "done", miou=miou, baseline=over, videos=videos)


def bars(result: pd.DataFrame) -> list[tuple[float, float, float]]:
    """m, low and high of the upright lines of the curve."""
    (axis,) = momentum.render(result, CONTEXT).figures["momentum"].draw().axes
    lines = [line.get_xydata() for line in axis.lines]
    return sorted((line[0, 0], *line[:, 1]) for line in lines if len(line) == 2 and line[0, 0] == line[1, 0])


def test_the_curve_has_a_bar_for_each_interval_over_videos() -> None:
    skill = {"fixed_010": 100, "fixed_300": 200, BASE: 150}
    result = to_frame(counted(name, seed, value) for name, value in skill.items() for seed in range(2))
    rows = summary(result, CONTEXT).set_index("cell")
    expected = [(0.01, "fixed_010"), (0.3, "fixed_300"), (0.9, BASE)]
    assert bars(result) == [(m, rows.loc[name, "low"], rows.loc[name, "high"]) for m, name in expected]
    assert all(rows["low"] < rows["miou"])
    assert all(rows["miou"] < rows["high"])
    forms = drawn(momentum.render(result, CONTEXT).figures["momentum"], svg=True)
    assert forms["png"].startswith(b"\x89PNG")
    assert b"<svg" in forms["svg"]
    assert bars(frame(43.0, 3)) == []  # no matrices, no intervals


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_the_ablations_default_is_table_1s_decoder_a(preset: str) -> None:
    output = plan.make(["ablation_momentum", "ablation_ensemble"], compose(preset), Path("nowhere"))
    ours, table_1 = ({cell.name: cell.job for _, cell in one.cells} for one in output.experiments)
    assert ours[BASE].fingerprint == table_1["decoder_a"].fingerprint
    assert len({job.fingerprint for job in ours.values()}) == 10


def test_cells_of_another_name_stand_in_the_table_alone() -> None:
    output = momentum.render(to_frame([cell("fixed_010", 0, 38.0), cell("mine", 0, 44.0)]), CONTEXT)
    assert "momentum" not in output.figures
    assert len(output.tables["ablation_momentum"].rows) == 2
