"""Networks whose random parameters are not drawn, for weights that are loaded."""

from pathlib import Path

import pytest
import tiny_jobs
import torch
from torch import nn

from harness.engine import build
from harness.plan.spec import TrainSpec, read_as
from models.decoders import upernet


class Part(nn.Module):
    """What a constructor may do: draw, scale what was drawn, set constants, and derive values from them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.table = nn.Linear(64, 64), nn.LayerNorm(64), nn.Parameter(torch.empty(4096))
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, 0.07)
        nn.init.ones_(self.table)
        with torch.no_grad():
            self.linear.weight.mul_(2)
            self.table.mul_(3).add_(1)
        self.bias = float(self.linear.bias[0])
        self.register_buffer("gains", self.norm.weight.detach() * 2, persistent=False)
        self.register_buffer("noise", torch.rand(64), persistent=False)
        self.kernel = nn.init.orthogonal_(torch.empty(8, 8))


def test_only_what_is_drawn_lacks_values() -> None:
    torch.full((2**20,), torch.nan)  # memory that is had again
    part = build.undrawn(Part)
    assert (part.linear.bias == torch.tensor(0.07)).all()
    assert part.bias == torch.tensor(0.07).item()
    assert (part.norm.weight == 1).all()
    assert (part.gains == 2).all()
    assert (part.table == 4).all()
    assert part.noise.unique().numel() > 32
    torch.testing.assert_close(part.kernel @ part.kernel.T, torch.eye(8))


def test_nothing_is_drawn_for_a_parameter() -> None:
    before = torch.get_rng_state()
    build.undrawn(lambda: nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Linear(4, 4), nn.Embedding(3, 4)]))
    assert torch.equal(torch.get_rng_state(), before)
    nn.Linear(4, 4)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_constructor_that_computes_with_what_it_draws_has_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = read_as(tiny_jobs.training(tmp_path, "a" * 16, "upernet"), TrainSpec)
    make = upernet.Decoder.__init__
    seen = []

    def computing(self, *arguments):
        make(self, *arguments)
        part = next(self.parameters())
        seen.append(float(part.detach().std()))
        if len(seen) == 1:
            raise torch.linalg.LinAlgError("non-finite values")

    monkeypatch.setattr(upernet.Decoder, "__init__", computing)
    build.segmentor(job, 4, drawn=False)
    assert len(seen) == 2
    assert 0 < seen[1] < 1
