"""What a training tells MLflow: the points of its curves, its pulse, its parameters."""

from pathlib import Path

import pytest
from one_model import EVENTS, T0, attempt, events_of

from harness.config.compose import compose
from harness.jobdir.replay import Replay
from harness.plan import plan as plans
from harness.plan.job import Train
from harness.tracking.training_run import params, pulse_tags


@pytest.mark.parametrize("pieces", [1, 2, 5, len(EVENTS)])
def test_a_curve_has_each_step_once_however_the_journal_is_read(pieces: int) -> None:
    size = -(-len(EVENTS) // pieces)
    curve = Replay()
    points = [point for at in range(0, len(EVENTS), size) for point in curve.hear(events_of(EVENTS[at : at + size]))]
    loss = [(step, when) for key, _, step, when in points if key == "train/loss"]
    assert [step for step, _ in loss] == list(range(1, 11))
    assert dict(loss)[6] == round(1000 * (T0 + 1000 + 6)), "of the attempt that counts"


def test_a_checkpoint_before_the_last_one_does_not_take_points_back() -> None:
    curve = Replay()
    points = curve.hear(events_of([*attempt(0, range(1, 5), 4, T0), *attempt(2, range(3, 7), 6, T0 + 100)]))
    assert [step for key, _, step, _ in points if key == "train/loss"] == list(range(1, 7))


def test_a_pulse_tells_step_loss_and_time_to_go() -> None:
    replay = Replay()
    replay.hear(events_of(attempt(4, range(5, 7), None, T0, total=26)))
    assert pulse_tags(replay) == {
        "step": "6/26",
        "loss": f"{1 / 6:.4f}",
        "eta_seconds": "60",  # 2 steps took 6 seconds
        "heartbeat": "2027-01-15T08:00:06Z",
    }


def test_an_ensembles_run_has_the_parameters_of_all_its_members(tmp_path: Path) -> None:
    words = ("decoder.decoder_a.momentum=0.3", "decoder.decoder_b.momentum=0.8")
    config = plans.make(["ablation_ensemble"], compose("demo", words), tmp_path).experiments[0].config
    members = [Train(config, name) for name in ("decoder_b", "decoder_a")]
    both = params(*members)
    assert (both["decoder"], both["seed"]) == ("decoder_a + decoder_b", "0")
    assert (both["decoder_a.momentum"], both["decoder_b.momentum"]) == ("0.3", "0.8")
    assert "momentum" not in both
    assert (params(members[0])["decoder"], params(members[0])["momentum"]) == ("decoder_b", "0.8")
