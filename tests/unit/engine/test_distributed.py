"""N ranks equal one process: real gloo ranks, forked from a server that has imported torch and timm."""

import json
import os

import pytest
import tiny_jobs
import torch
import torch.multiprocessing as mp
from mlflow_server import free_port
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

import models.layers.head
from harness.engine import build, distributed, optim, runtime, train, worker
from harness.engine.runtime import Rank, Stop
from harness.plan.spec import read

CPU = torch.device("cpu")
MICRO_BATCHES = (4, 2)  # of a batch of 4: without and with accumulation
HEAD = {**tiny_jobs.HEADS["decoder_a"], "proj": "ref"}  # whose read has batch statistics of its own


def start(function, world, *arguments):
    """Call function(index, world, ...) in `world` processes, and wait for them."""
    mp.set_forkserver_preload(["timm"])
    mp.start_processes(function, (world, *arguments), world, start_method="forkserver")


def _rank(index, world, port, root):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    rank = Rank(index, world, CPU, 1)
    with distributed.process_group(rank):
        results = {
            "norms": _norm_step(rank),
            "gathered": _gather(rank),
            "same": (distributed.same(nn.BatchNorm2d(3)), distributed.same(_apart(rank))),
            **{f"train {size}": _train(rank, root / "both" / str(size)) for size in MICRO_BATCHES},
        }
    torch.save(results, root / f"{index}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks find, and the root with the same jobs for one process; ranks start once for all tests."""
    root = tmp_path_factory.mktemp("ranks")
    for size in MICRO_BATCHES:
        for name in ("alone", "both"):
            folder = root / name / str(size)
            tiny_jobs.training(folder, micro_batch=size, iterations=3, lr=1e-4, decoder="decoder_a", config=HEAD)
    start(_rank, 2, free_port(), root)
    return root, [torch.load(root / f"{index}.pt") for index in range(2)]


def norms():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), BatchNormAct2d(4))


def _norm_step(rank):
    torch.manual_seed(1)
    images = torch.randn(5, 3, 6, 6) * 3 + 2
    model = norms()
    if rank.world > 1:
        model = distributed.convert_batch_norm(model, CPU)
        images = images[:2] if rank.rank == 0 else images[2:]  # uneven shares
    out = model(images)
    loss = distributed.all_sum((out**3).sum()) if rank.world > 1 else (out**3).sum()
    # every rank holds the whole sum, whose backward adds up over ranks: share it out
    (loss / rank.world).backward()
    gradients = {name: distributed.total(p.grad) for name, p in model.named_parameters()}
    return out.detach(), gradients, dict(model.state_dict())


def test_shared_batch_norm_equals_one_batch(ranks):
    first, second = (result["norms"] for result in ranks[1])
    whole = _norm_step(Rank(0, 1, CPU, 1))
    assert torch.allclose(torch.cat([first[0], second[0]]), whole[0], atol=1e-5)
    for name, gradient in whole[1].items():
        assert torch.allclose(first[1][name], gradient, rtol=1e-4, atol=2e-3), name
    assert first[2].keys() == whole[2].keys()
    for name, value in whole[2].items():
        assert torch.allclose(first[2][name], value, atol=1e-5), name


def test_conversion_keeps_names_values_and_eval_output():
    model = norms()
    model(torch.randn(4, 3, 5, 5))
    before, image = {name: value.clone() for name, value in model.state_dict().items()}, torch.randn(1, 3, 5, 5)
    expected = model.eval()(image)
    converted = distributed.convert_batch_norm(model, CPU)
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    assert list(converted.state_dict()) == list(before)
    assert torch.equal(converted(image), expected)


def test_sum_is_the_value_itself_alone():
    value = torch.ones(2, requires_grad=True)
    assert distributed.all_sum(value) is value
    assert distributed.agree(3, 4) == [3, 4]


def test_sum_is_handed_to_whoever_asks():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.all_sum = lambda value: value

    model = nn.Sequential(Asks(), nn.Linear(1, 1))
    distributed.hand_in_sum(model)
    assert model[0].all_sum is distributed.all_sum
    assert not hasattr(model[1], "all_sum")


class Trace(tuple):
    """Class sums that only remember the order they were merged in."""

    __slots__ = ()

    def __new__(cls, *values):
        return super().__new__(cls, values)

    def merge(self, later):
        return Trace(torch.cat([self[0], later[0]]))


def _gather(rank):
    parts = [Trace(torch.tensor([10 * micro + rank.rank])) for micro in range(3)]
    return distributed.gather_sums(parts)[0], distributed.agree(rank.rank + 1, 5)


def test_sums_are_merged_in_the_batchs_order(ranks):
    for merged, agreed in (result["gathered"] for result in ranks[1]):
        assert merged.tolist() == [0, 1, 10, 11, 20, 21]
        assert agreed == [3, 10]


def _apart(rank):
    """A module of which one number differs in its last bit from rank to rank."""
    norm = nn.BatchNorm2d(3)
    norm.running_mean[1] = 1 + rank.rank * torch.finfo(torch.float32).eps
    return norm


def test_memories_that_differ_in_a_bit_are_not_the_same(ranks):
    assert [result["same"] for result in ranks[1]] == [(True, False)] * 2


def test_memories_that_came_apart_end_the_training(tmp_path, monkeypatch):
    folder = tiny_jobs.training(tmp_path)
    monkeypatch.setattr(distributed, "same", lambda module: module is None)
    assert worker.launch([folder], Rank(0, 1, CPU, 1), Stop()) == 1
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["reason"] == "the ranks have different memories at iteration 2: this is a bug, discard this run"
    assert not list((folder / "checkpoints").glob("*.pt"))


def test_no_memory_no_sums():
    assert distributed.gather_sums([None, None]) is None


def _train(rank, root):
    models.layers.head.DROPOUT = 0.0  # ranks draw other numbers than one process does
    merged, gradients = [], []
    gather, set_lr = distributed.gather_sums, optim.set_lr
    distributed.gather_sums = lambda parts: merged.append(gather(parts)) or merged[-1]

    def spy(optimizer, lr):
        groups = optimizer.param_groups
        gradients.append([p.grad.clone() for group in groups for p in group["params"] if p.grad is not None])
        set_lr(optimizer, lr)

    optim.set_lr = spy
    folder = root / "jobs" / ("a" * 16)
    try:
        assert train.train(folder, rank, Stop()).status == "finished"
    finally:
        distributed.gather_sums, optim.set_lr = gather, set_lr
        models.layers.head.DROPOUT = 0.1
    return load_file(folder / "weights.safetensors"), [tuple(sums) for sums in merged], gradients


@pytest.mark.parametrize("size", MICRO_BATCHES)
def test_two_ranks_train_as_one_process(ranks, size):
    root, results = ranks
    alone, alone_sums, alone_gradients = _train(Rank(0, 1, CPU, 1), root / "alone" / str(size))
    (first, first_sums, first_gradients), (_, second_sums, _) = (result[f"train {size}"] for result in results)
    for mine, theirs in zip(first_sums, second_sums, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))  # ranks are bit-equal
    for mine, whole in zip(first_sums[0], alone_sums[0], strict=True):
        assert torch.allclose(mine, whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(first["decoder.memory.initialised"], alone["decoder.memory.initialised"])
    assert torch.allclose(first["decoder.memory.rows"], alone["decoder.memory.rows"], atol=1e-3)
    scale = max(float(gradient.norm()) for gradient in alone_gradients[0])
    for mine, whole in zip(first_gradients[0], alone_gradients[0], strict=True):
        assert (mine - whole).norm() <= 1e-3 * whole.norm() + 1e-5 * scale
    for name, value in alone.items():
        if "running" in name:
            assert torch.allclose(first[name], value, rtol=1e-3, atol=1e-3), name


def _share(index, world, port, root):
    """A rank of a training and an evaluation, as the worker runs them."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    models.layers.head.DROPOUT = 0.0
    folders = [root / "jobs" / name for name in ("a" * 16, "b" * 16, "e" * 16)]
    assert worker.launch(folders, Rank(index, world, CPU, 1), Stop()) == 0


def equal_shares(root, world):
    """Weights with and without accumulation (micro-batches of 16 and of 8), and the confusion matrices by video."""
    folder = root / str(world)
    for name, micro in (("a", 16), ("b", 8)):
        tiny_jobs.training(folder, name * 16, batch=16, micro_batch=micro, iterations=2, lr=1e-5, config=HEAD)
    tiny_jobs.evaluation(folder, "e" * 16, ["a" * 16])
    start(_share, world, free_port(), folder)  # one too: what it sets must not stay here
    made = folder / "jobs"
    return [load_file(made / (name * 16) / "weights.safetensors") for name in "ab"], made / ("e" * 16)


APART = {"memory": 1e-3, "statistics": 1e-3, "weights": 0.05}  # AdamW's first steps are signs: noise at 0 counts whole


def kind_of(name):
    return "memory" if "memory.rows" in name else "statistics" if "running_" in name else "weights"


def beginning(folder):
    """The weights that a training begins with."""
    job = read(folder)
    runtime.seed_all(job.seed)
    return build.segmentor(job, job.data.config["classes"]).state_dict()


def assert_same_share(alone, several, first):
    """Memory, batch norm's statistics and weights: how far N ranks end from one process, against how far it came."""
    for mine, whole in zip(several, alone, strict=True):
        assert mine.keys() == whole.keys() == first.keys()
        for kind in APART:
            names = [name for name in whole if kind_of(name) == kind and whole[name].is_floating_point()]
            left, right, start = (torch.cat([state[n].flatten() for n in names]) for state in (mine, whole, first))
            apart, moved = float((left - right).norm()), float((right - start).norm())
            assert moved > 0
            assert apart <= APART[kind] * moved, kind
        assert torch.equal(mine["decoder.memory.initialised"], whole["decoder.memory.initialised"])


@pytest.mark.parametrize(
    "world",
    [2, *(pytest.param(n, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]) for n in (4, 8))],
    ids=["2 ranks", "4 ranks", "8 ranks"],
)
def test_ranks_equal_one_process_and_count_exactly(tmp_path, world):
    alone, counts_alone = equal_shares(tmp_path, 1)
    several, counts = equal_shares(tmp_path, world)  # the engine compares M's bits over ranks at each checkpoint
    assert_same_share(alone, several, beginning(tmp_path / "1" / "jobs" / ("a" * 16)))
    # the same weights for both, so that counts are equal pixel by pixel and not only nearly
    for name in ("a", "b"):
        for file in ("weights.safetensors", "weights.sha256"):
            source, target = (tmp_path / str(n) / "jobs" / (name * 16) / file for n in (1, world))
            target.write_bytes(source.read_bytes())
    for path in (counts / "videos").glob("*.npz"):
        path.unlink()
    start(_evaluate, world, free_port(), tmp_path / str(world))
    mine, theirs = tiny_jobs.counts(counts), tiny_jobs.counts(counts_alone)
    assert mine.keys() == theirs.keys()
    assert all((mine[video] == theirs[video]).all() for video in theirs)


def _evaluate(index, world, port, root):
    torch.set_num_threads(1)
    assert worker.launch([root / "jobs" / ("e" * 16)], Rank(index, world, CPU, 1), Stop()) == 0
