"""Two ranks equal one process under every key of training, and with a loss of one's own: two real gloo ranks."""

import os
from dataclasses import replace

import pytest
import tiny_jobs
import torch
from mlflow_server import free_port
from safetensors.torch import load_file
from test_distributed import CPU, assert_same_share, beginning, start
from test_own_losses import BOUNDARY

import models.layers.head
from harness.config.compose import DataSpec
from harness.engine import build, class_weights, distributed, worker
from harness.engine.runtime import Rank, Stop
from harness.plan.spec import TrainSpec, read_as
from harness.tools.check import _ranks

UNEVEN = {"class_weights": (0.3, 1.0, 2.0, 7.0)}
STEPS = {
    "freeze": {"freeze": "encoder:2"},
    "frozen norms": {"freeze": "decoder.source.1.*"},
    "low rank": {"lora": 2},
    "class weights": UNEVEN,
    "class weights, accumulated": UNEVEN | {"micro_batch": 2},
    "ohem": {"ohem": 0.7} | UNEVEN,
    "dice and lovasz": {"dice": 1.0, "lovasz": 1.0},
    "dice and lovasz, accumulated": {"dice": 1.0, "lovasz": 1.0, "micro_batch": 2},
}
WHOLE = {"ema": 0.5, "keep": "best", "evaluate_every": 1, "batch": 16, "micro_batch": 16, "iterations": 2, "lr": 1e-5}
OWN = "a loss of one's own"


def jobs(root):
    """A training for each of STEPS, and one with a loss of its own."""
    made = {}
    for index, (name, options) in enumerate(STEPS.items()):
        folder = tiny_jobs.training(root, f"{index:016d}", crop=32, **options)
        made[name] = read_as(folder, TrainSpec)
    own = read_as(tiny_jobs.training(root, "f" * 16, decoder="upernet"), TrainSpec)
    return made | {OWN: replace(own, **BOUNDARY)}


def _rank(index, world, port, root):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    rank = Rank(index, world, CPU, 1)
    with distributed.process_group(rank):
        values = {name: _ranks.first_iteration(job, rank) for name, job in jobs(root / str(index)).items()}
        data = build.dataset(DataSpec("synthetic", tiny_jobs.DATA))
        torch.save((values, class_weights.by_frequency(data, rank)), root / f"{index}.pt")


def _whole(index, world, port, root):
    """A rank of a training with an average, of which the best on dev is kept."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    models.layers.head.DROPOUT = 0.0
    assert worker.launch([root / "jobs" / ("a" * 16)], Rank(index, world, CPU, 1), Stop()) == 0


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    start(_rank, 2, free_port(), root)
    return [torch.load(root / f"{index}.pt") for index in range(2)]


@pytest.mark.parametrize("name", [*STEPS, OWN])
def test_a_step_of_two_ranks_is_that_of_one_process(ranks, tmp_path, name):
    """Gradients, losses by name and buffers, within the tolerance of `harness check`."""
    job = jobs(tmp_path)[name]
    alone = Rank(0, 1, CPU, 1)
    whole, rounded = (_ranks.first_iteration(job, alone, rounding=rounding) for rounding in (0.0, _ranks.ROUNDING))
    (first, _), (second, _) = ((values[name], weights) for values, weights in ranks)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert "of the tolerance" in _ranks.compare(whole, first, rounded)
    named = {"boundary"} if name == OWN else {key for key in ("dice", "lovasz") if key in STEPS[name]}
    for key in named:
        assert float(whole[f"loss {key}"]) > 0
        assert torch.allclose(whole[f"loss {key}"], first[f"loss {key}"], rtol=1e-4)


def test_frequencies_are_counted_once_by_all(ranks):
    data = build.dataset(DataSpec("synthetic", tiny_jobs.DATA))
    alone = class_weights.by_frequency(data, Rank(0, 1, CPU, 1))
    assert all(torch.equal(weights, alone) for _, weights in ranks)


def test_the_kept_average_of_two_ranks_is_that_of_one_process(tmp_path):
    held_out = DataSpec("synthetic", tiny_jobs.DATA, 0.3)
    kept = []
    for world in (1, 2):
        folder = tiny_jobs.training(tmp_path / str(world), data=held_out, **WHOLE)
        start(_whole, world, free_port(), tmp_path / str(world))
        kept.append([load_file(folder / "weights.safetensors")])
    assert_same_share(*kept, beginning(tmp_path / "1" / "jobs" / ("a" * 16)))
