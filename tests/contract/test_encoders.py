"""Every file in models/encoders keeps its contract as `harness check` reads it; and what that does not see of it."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch

from harness.config import plugins
from harness.engine import build
from harness.tools import check
from models.contract import Features

NAMES = plugins.names("encoders")
EVERY = pytest.mark.parametrize("name", NAMES)
SIDE = 64


def make(name: str, side: int = SIDE, seed: int = 0) -> Any:
    module = plugins.load("encoders", name)
    torch.manual_seed(seed)
    return module.Encoder(module.Config(), side).eval()


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def leaves(features: Features) -> list[torch.Tensor]:
    return [*features.levels, features.deepest]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_folder_is_found() -> None:
    assert {"beit", "timm_pyramid"} <= set(NAMES)


@EVERY
def test_it_keeps_the_contract(name: str) -> None:
    elsewhere = ("two ranks match one process", "a resumed training is bit-identical")  # tests/unit/engine
    checks = {one.what: one for one in check.checks("encoders", name, leave_out=elsewhere)}
    assert {what: one.text for what, one in checks.items() if not one.passed} == {}
    assert len(checks) == 12


@EVERY
@torch.no_grad()
def test_a_seed_makes_an_encoder(name: str) -> None:
    one, same, other = make(name), make(name), make(name, seed=1)
    for first, second in zip(leaves(one(images())), leaves(same(images())), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(one(images()).deepest, other(images()).deepest)


@EVERY
@torch.no_grad()
def test_a_state_makes_an_encoder(name: str) -> None:
    one = make(name)
    other = build.undrawn(lambda: make(name, seed=1))  # as evaluations make it
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert all(map(torch.equal, leaves(one(images())), leaves(other(images()))))


@EVERY
@torch.no_grad()
def test_frames_of_a_batch_do_not_see_one_another(name: str) -> None:
    encoder = make(name)
    whole = leaves(encoder(images()))
    for index in range(2):
        alone = leaves(encoder(images()[index : index + 1]))
        for value, expected in zip(alone, whole, strict=True):
            torch.testing.assert_close(value, expected[index : index + 1], rtol=1e-3, atol=1e-4)


@EVERY
def test_weights_stay_where_the_identity_reads_them(name: str) -> None:
    config: Any = plugins.read_schema(plugins.find("encoders", name)).config
    paths = [field for field in fields(config) if field.name == "weights"]
    assert paths, "an encoder takes a local file by the key `weights`"
    assert all(field.metadata.get("where") and field.metadata.get("content") for field in paths)
    assert all(field.default is None for field in paths)
