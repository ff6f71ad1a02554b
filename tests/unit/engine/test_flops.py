"""FLOPs of the paper's model, counted without its weights: science.md's figures."""

import pytest

from harness.engine import flops as count

LARGE = "beit_large_patch16_224.in22k_ft_in22k"


def job(decoder):
    return {
        "plugins": [],
        "encoder": {"name": "beit", "config": {"model": LARGE}},
        "decoder": {"name": decoder, "config": {}},
        "train": {"crop": 512, "batch": 2},
        "classes": 124,
    }


def test_four_stages_of_a_window_cost_what_science_says():
    one = count.passes(*count.fake_model(job("decoder_a"), 124), 512, 512)
    assert one.window(4) / one.window() == pytest.approx(1.160, abs=0.005)
    assert one.window() == pytest.approx(3.0e12, rel=0.15)  # a window: 3.0 TFLOP


def test_a_training_step_is_three_passes_and_the_mask_of_the_frame_before():
    flops = {name: count.training(job(name))["flops"] / 2 for name in ("upernet", "decoder_a")}
    assert flops["decoder_a"] > flops["upernet"] > 3 * 1e12
