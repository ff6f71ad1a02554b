"""Every file in models/encoders through the harness: what tests/unit/models does not see of it."""

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file

from harness.config import plugins
from harness.config.compose import PluginSpec
from harness.engine import build
from harness.plan.spec import TrainSpec, read_as
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
@torch.no_grad()
def test_a_seed_makes_an_encoder(name: str) -> None:
    one, same, other = make(name), make(name), make(name, seed=1)
    for first, second in zip(leaves(one(images())), leaves(same(images())), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(one(images()).deepest, other(images()).deepest)


@EVERY
@torch.no_grad()
def test_a_state_makes_an_encoder(name: str) -> None:
    one, other = make(name), make(name, seed=1)
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
@torch.no_grad()
def test_the_windows_that_it_says_it_takes(name: str) -> None:
    encoder = make(name)
    wider = (SIDE, SIDE + encoder.multiple)
    if encoder.size is None:
        levels = encoder(torch.randn(1, 3, *wider)).levels
        assert [tuple(level.shape[2:]) for level in levels] == [(wider[0] // r, wider[1] // r) for r in (4, 8, 16, 32)]
    else:
        with pytest.raises(ValueError, match=str(SIDE)):
            encoder(torch.randn(1, 3, *wider))


@EVERY
def test_layers_are_counted_from_the_image(name: str) -> None:
    encoder = make(name)
    ids = {key: encoder.layer_id(key) for key, _ in encoder.named_parameters()}
    assert min(ids.values()) == 0
    assert all(isinstance(value, int) for value in ids.values())


@EVERY
def test_weights_stay_where_the_identity_reads_them(name: str) -> None:
    config: Any = plugins.read_schema(plugins.find("encoders", name)).config
    paths = [field for field in fields(config) if field.name == "weights"]
    assert paths, "an encoder takes a local file by the key `weights`"
    assert all(field.metadata.get("where") and field.metadata.get("content") for field in paths)
    assert all(field.default is None for field in paths)


@EVERY
def test_it_trains_under_a_decoder_and_comes_back_from_its_weights(name: str, tmp_path: Path) -> None:
    encoder = PluginSpec(name)
    folder = tiny_jobs.training(tmp_path, decoder="upernet", encoder=encoder, iterations=2, crop=SIDE, short_side=SIDE)
    state = load_file(tiny_jobs.train_now(folder) / "weights.safetensors")
    model = build.segmentor(read_as(folder, TrainSpec), tiny_jobs.DATA["classes"])
    model.load_state_dict(state)
    assert all(bool(value.isfinite().all()) for value in state.values())
