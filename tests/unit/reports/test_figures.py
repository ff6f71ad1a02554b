"""Figures that reports share: what is drawn of a training's losses, and the text beside it."""

from harness.results.evidence import Curve
from harness.results.figure import render
from reports import _figures

UPERNET = Curve(
    "UPerNet", "upernet", 0, (10, 20), (2.5, 1.80), main=(1.9, 1.17), scores=((10, 20.0), (20, 50.2)), split="dev"
)
A = Curve("Decoder A", "decoder_a", 0, (10, 20), (3.9, 2.34), main=(1.8, 1.15))
OLD = Curve("Decoder B", "decoder_b", 0, (10, 20), (3.9, 2.34))  # without the main loss


def test_the_main_loss_and_miou_come_first_and_totals_on_demand() -> None:
    first, total = _figures.learning_curves([UPERNET, A]), _figures.total_loss([UPERNET, A])
    assert first is not None
    assert total is not None
    assert (first.folded, total.folded) == (False, True)
    assert first.title == "Main cross entropy (thick: running mean) and mIoU on dev in training"
    assert "UPerNet seed 0: main cross entropy from 1.90 at iteration 10 to 1.17" in first.alt
    assert "Decoder A seed 0: main cross entropy from 1.80 at iteration 10 to 1.15" in first.alt
    assert "UPerNet seed 0: mIoU from 20.00 at iteration 10 to 50.20" in first.alt
    assert "1.80 at iteration 20" not in first.alt
    assert "2.34" not in first.alt
    assert "to 2.34" in total.alt
    assert len(first.draw().axes) == 2
    assert render(first)["png"].startswith(b"\x89PNG")


def test_a_training_without_the_main_loss_is_drawn_by_its_total_alone() -> None:
    assert _figures.learning_curves([OLD]) is None
    total = _figures.total_loss([OLD])
    assert total is not None
    assert "not comparable between decoders" in total.title
