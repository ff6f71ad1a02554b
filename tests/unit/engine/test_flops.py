"""FLOPs of the paper's model, counted without its weights: science.md's figures."""

from dataclasses import replace

import pytest

from harness.config.compose import Content, compose
from harness.engine import flops as count
from harness.plan.job import Train

LARGE = "beit_large_patch16_224.in22k_ft_in22k"


def job(decoder):
    words = [f"encoder.beit.model={LARGE}", "train.batch=2", "train.crop=512", "train.micro_batch=2"]
    config = replace(compose("paper", words), content=Content(videos={"train": 2806}))
    return Train(config, decoder).spec()


def test_four_stages_of_a_window_cost_what_science_says():
    model, mode = count.fake_model(job("decoder_a"), 124)
    with mode:
        window = count.passes(model, 512, 512)
    assert window.total(4) / window.total() == pytest.approx(1.160, abs=0.005)
    assert window.total() == pytest.approx(3.0e12, rel=0.15)  # a window: 3.0 TFLOP


def test_a_training_step_is_three_passes_and_the_mask_of_the_frame_before():
    flops = {name: count.training(job(name), 124)["flops"] / 2 for name in ("upernet", "decoder_a")}
    assert flops["decoder_a"] > flops["upernet"] > 3 * 1e12
