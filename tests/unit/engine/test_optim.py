import pytest
import torch
from torch import nn

from harness.config.sections import TrainConfig
from harness.engine import optim


class Encoder(nn.Module):
    num_layers = 2

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.table = nn.Parameter(torch.zeros(3, 2))
        self.pyramid = nn.Linear(2, 2)

    def layer_id(self, name):
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return 3 if name.startswith("pyramid") else 0


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.fixed = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def group_of(groups, parameter):
    (found,) = [group for group in groups if any(parameter is one for one in group["params"])]
    return found["weight_decay"], found["lr_scale"]


def test_groups_decay_by_layer_and_spare_vectors():
    model = Model()
    groups = optim.parameter_groups(model, 0.05, 0.5)
    encoder = model.encoder
    assert group_of(groups, encoder.stem.weight) == (0.05, 0.125)
    assert group_of(groups, encoder.stem.bias) == (0.0, 0.125)
    assert group_of(groups, encoder.table) == (0.05, 0.125)  # position tables are matrices: decayed, as in unilm
    assert group_of(groups, encoder.blocks[0].weight) == (0.05, 0.25)
    assert group_of(groups, encoder.blocks[1].bias) == (0.0, 0.5)
    assert group_of(groups, encoder.pyramid.weight) == (0.05, 1.0)
    assert group_of(groups, model.decoder[0].weight) == (0.05, 1.0)
    assert group_of(groups, model.decoder[1].weight) == (0.0, 1.0)
    every = [parameter for group in groups for parameter in group["params"]]
    assert len(every) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 1e-6),  # the warm-up ratio
        (1, 0.99 * (0.1 + 0.9e-6)),
        (5, 0.95 * (0.5 + 0.5e-6)),
        (9, 0.91 * (0.9 + 0.1e-6)),
        (10, 0.9),
        (50, 0.5),
        (99, 0.01),
    ],
)
def test_schedule_by_hand(iteration, expected):
    assert optim.lr_factor(iteration, 100, 10) == pytest.approx(expected, rel=1e-12)


def test_schedule_without_warmup_starts_at_the_base_rate():
    assert optim.lr_factor(0, 4, 0) == 1


def test_rate_is_set_by_layer():
    optimizer = optim.adamw(Model(), TrainConfig(lr=1.0, weight_decay=0.05, layer_decay=0.5))
    optim.set_lr(optimizer, 0.2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.025, 0.05, 0.1, 0.2}
    assert optimizer.defaults["betas"] == (0.9, 0.999)
