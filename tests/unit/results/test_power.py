"""How many seeds a gain takes, against Student's t where it has a closed form, and what is said of it where."""

import json
from pathlib import Path

import finished_root
import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from harness import cli
from harness.config import compose as config
from harness.plan import plan
from harness.results import cells, power, stats
from harness.results import rows as results
from harness.results.power import Need, Noise, needs, seeds_needed, smallest_gain
from harness.results.rows import CellResult, Context, Gain, Row, aggregate
from harness.results.stats import Interval

NOISE = Noise(seeds=0.55, units=0.20)
CONTEXT = Context("ablation_ensemble", "Table 1", "paper", "vspw", comparable=True)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_without_noise_of_videos_it_is_the_t_tests_power(seeds: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.8, 0.55, (40_000, seeds))
    error = samples.std(axis=1, ddof=1) / seeds**0.5
    seen = np.mean(samples.mean(axis=1) > student.ppf(0.975, seeds - 1) * error)
    assert power.power(0.8, Noise(0.55, 0.0), seeds) == pytest.approx(seen, abs=0.01)
    assert power.power(0.8, Noise(0.55, None), seeds) == pytest.approx(seen, abs=0.01)
    assert power.power(0.0, NOISE, seeds) == pytest.approx(0.025)
    assert power.power(-0.8, NOISE, seeds) == power.power(0.8, NOISE, seeds)


@pytest.mark.parametrize("gain", [0.1, 1.0, 5.0, 500.0])
def test_it_is_the_noncentral_t_beyond_the_intervals_factor(gain: float) -> None:
    parts = [(NOISE.seeds**2 / 4, 3.0), (0.20**2, NOISE.count - 1.0)]
    factor, df = stats.quantile(parts, 0.975)
    error = sum(variance for variance, _ in parts) ** 0.5
    assert power.power(gain, NOISE, 4) == pytest.approx(nct.sf(factor, df, min(gain / error, 30)), abs=1e-12)


def test_one_seed_shows_nothing() -> None:
    assert power.power(50.0, NOISE, 1) == 0
    assert smallest_gain(NOISE, 1) is None


def test_the_fewest_seeds_and_the_smallest_gain_are_each_others_inverse() -> None:
    needed = seeds_needed(1.22, NOISE)
    assert needed == 5
    assert power.power(1.22, NOISE, 4) < power.POWER <= power.power(1.22, NOISE, 5)
    by_seeds = [smallest_gain(NOISE, seeds) or 0 for seeds in (2, 3, 4, 5, 10)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_seeds[2] > 1.22 > by_seeds[3]
    assert power.power(by_seeds[3], NOISE, 5) == pytest.approx(power.POWER)
    assert smallest_gain(Noise(0.0, 0.0), 3) == 0


def test_more_seeds_do_not_help_against_the_choice_of_videos() -> None:
    assert seeds_needed(0.5, NOISE) is None
    few = Need("a", "b", 0.5, NOISE, 3, None, 0, None, None).sentence
    assert few == (
        "to decide +0.50 at this noise (seeds ±0.55, videos ±0.20) in 80% of cases: more than 100 seeds, "
        "because there are too few videos"
    )
    assert not str(Need("a", "b", 0.5, Noise(9.0, 0.1), 3, None, 0, None, None).sentence).endswith("few")


def test_the_sentence() -> None:
    one = Need("decoder_a", "upernet", 1.22, NOISE, 3, 5, 6, 102.4, 1.5)
    head = "to decide +1.22 at this noise (seeds ±0.55, videos ±0.20) in 80% of cases: 5 seeds; you have 3"
    assert one.sentence == f"{head}; 6 more trainings, about 102 GPU-hours"
    assert Need("a", "b", 1.22, NOISE, 3, 5, 6, None, 1.5).sentence == f"{head}; 6 more trainings"
    enough = Need("a", "b", 1.22, NOISE, 7, 5, 0, 0.0, 1.0).sentence
    assert enough == head.replace("you have 3", "you have 7")
    assert Need("a", "b", None, NOISE, 7, None, 0, None, 1.0).sentence is None


def rows(seeds: int, gains: tuple[float, ...]) -> list[Row]:
    """Table 1's first two rows without matrices; the gain of each seed is given."""
    return aggregate(
        [
            CellResult(
                "ablation_ensemble", cell, cell, seed, "done", miou=miou, baseline=over, members=(f"{cell}{seed}",)
            )
            for seed in range(seeds)
            for cell, miou, over in (("upernet", 60.0, None), ("decoder_a", 60.0 + gains[seed], "upernet"))
        ]
    )


def test_without_matrices_priors_stand_for_the_noise() -> None:
    (one,) = needs(rows(2, (1.0, 2.0)), CONTEXT)
    assert one.noise == Noise(0.5 * 2**0.5, 0.2, 343, measured=False)
    assert str(one.sentence).startswith("to decide +1.22 at an assumed noise (seeds ±0.71, videos ±0.20) in 80%")
    assert (one.needed, one.trainings) == (6, 8)  # four more seeds of two models
    (fewer,) = needs(rows(1, (1.0,)), CONTEXT, videos=4)
    assert fewer.noise.units is None
    assert fewer.noise.text == "an assumed noise (seeds ±0.71, these videos)"


@pytest.mark.parametrize(("measured", "error"), [(0.1, 0.1), (0.9, 0.2)])
def test_one_seeds_error_over_videos_is_a_bound(measured: float, error: float) -> None:
    pair = Interval(0.0, 2.0, of="videos, this pair of checkpoints", sd_units=measured)
    ours = Gain({0: 1.0}, pair, same_checkpoints=False)
    assert power.noise_of(ours, False, 343) == Noise(0.5 * 2**0.5, error, 343, measured=False)
    assert power.noise_of(ours, True, 343) is None


def test_a_plan_says_it_before_and_after_its_trainings(tmp_path: Path) -> None:
    full_plan = plan.make(["ablation_ensemble"], config.compose("demo"), tmp_path / "nothing", 3)
    before = power.of_plan(full_plan, full_plan.experiments[0], ())
    assert {(one.cell, one.baseline) for one in before} == {
        *(("decoder_a", "upernet"), ("decoder_b", "upernet"), ("decoder_ab", "decoder_a"), ("decoder_ab", "upernet")),
    }
    assert {(one.seeds, one.noise.measured, one.gpu_hours) for one in before} == {(0, False, None)}
    done = finished_root.make(tmp_path / "done", seeds=3)
    after = {(one.cell, one.baseline): one for one in power.of_plan(done, done.experiments[0], ())}
    a = after["decoder_a", "upernet"]
    assert (a.seeds, a.noise.measured, a.noise.count) == (3, True, 24)
    measured = [
        results.result(done.experiments[0], order, seed, cell, **cells.read(done, cell, {}))
        for order, (seed, cell) in enumerate(done.experiments[0].cells)
    ]
    ours = next(row for row in aggregate(measured) if row.cell == "decoder_a").gain
    assert (a.noise.seeds, a.noise.units) == (ours.interval.sd_seeds, ours.interval.sd_units)
    if a.trainings:
        assert a.gpu_hours == pytest.approx(a.trainings * 125 / 3600)  # seconds of every training of finished_root


def test_stages_of_one_checkpoint_assume_no_noise_between_trainings(tmp_path: Path) -> None:
    full_plan = plan.make(["ablation_stages"], config.compose("demo"), tmp_path, 1)
    assert power.of_plan(full_plan, full_plan.experiments[0], ()) == []


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "ablation_ensemble", "--seeds", "3", "--power"]) == 0
    shown = capsys.readouterr().out
    assert "Seeds  [ablation_ensemble]" in shown
    assert "Decoder A over UPerNet: to decide +1.22 at an assumed noise (seeds ±0.71, videos ±" in shown
    assert "with 3 seeds a gain of " in shown
    assert cli.main(["plan", "ablation_ensemble", "--seeds", "3", "--power", "--json"]) == 0
    first, *_ = json.loads(capsys.readouterr().out)["power"]
    assert list(first) == [
        *("experiment", "cell", "over", "gain", "power", "sd_seeds", "sd_units", "measured", "seeds", "seeds_needed"),
        *("trainings", "gpu_hours", "smallest_gain", "text"),
    ]
    assert (first["cell"], first["over"], first["gain"], first["seeds"]) == ("decoder_a", "upernet", 1.22, 0)
    assert cli.main(["plan", "ablation_ensemble", "--json"]) == 0
    assert "power" not in json.loads(capsys.readouterr().out)
