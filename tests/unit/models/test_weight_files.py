"""Weights are found in whatever a file wraps them in, by one function for all encoders, and what was done is said."""

import importlib

import pytest
import torch
from safetensors.torch import save_file

from models.encoders import _weights

SIDE = 64
FILES = {  # encoder -> a tensor of its backbone
    "beit": "blocks.0.attn.qkv.weight",
    "timm_plain": "blocks.0.attn.qkv.weight",
    "timm_pyramid": "conv_stem.weight",
}
EVERY = pytest.mark.parametrize("name", FILES)


def make(name, **options):
    module = importlib.import_module(f"models.encoders.{name}")
    return module.Encoder(module.Config(**options), SIDE)


def filled(state, number):
    """The state with all floats at one number."""
    return {key: torch.full_like(value, number) if value.is_floating_point() else value for key, value in state.items()}


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def inside(state, where):
    """The state with a part in the middle of its names, as a wrapper of one block leaves it."""
    return {".".join([*key.split(".")[:1], where, *key.split(".")[1:]]): value for key, value in state.items()}


@pytest.fixture
def load(tmp_path):
    """Loads a file's content into an encoder; the first number of a tensor of it, and what the encoder says."""

    def load(name, content, **options):
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        encoder = make(name, weights=str(path), **options)
        note = encoder.load_pretrained()
        return encoder.backbone.state_dict()[FILES[name]].flatten()[0].item(), note

    return load


@EVERY
@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda state: state, ""),
        (lambda state: prefixed(state, "module."), "names without module"),
        (lambda state: prefixed(state, "_orig_mod."), "names without _orig_mod"),
        (lambda state: prefixed(state, "module._orig_mod."), "names without _orig_mod, module"),
        (lambda state: inside(state, "_orig_mod"), "names without _orig_mod"),
        (lambda state: prefixed(state, "backbone."), "'backbone'"),
        (lambda state: prefixed(state, "encoder."), "'encoder'"),
        (lambda state: prefixed(state, "model."), "'model'"),
        (lambda state: prefixed(state, "net.trunk."), "'net.trunk'"),
        (lambda state: prefixed(state, "module.model.backbone."), "'model.backbone'"),
        (lambda state: {"state_dict": state}, "'state_dict'"),
        (lambda state: {"model": {"state_dict": prefixed(state, "module.")}}, "'model.state_dict'"),
        (lambda state: {"epoch": 3, "net": state, "optimizer": {"state": {0: {"m": torch.zeros(3)}}}}, "'net'"),
        (lambda state: {"ema": state}, "averaged weights (EMA)"),
        (lambda state: prefixed(state, "encoder.backbone.") | {"decoder.x": torch.zeros(2)}, "'encoder.backbone'"),
    ],
)
def test_wrappings_are_undone_and_said(name, wrap, says, load):
    state = filled(make(name).backbone.state_dict(), 0.25)
    value, note = load(name, wrap(state))
    assert value == 0.25
    assert (says in note) if says else note == ""


@EVERY
@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw, mean: {"model": raw, "model_ema": mean},
        lambda raw, mean: {"state_dict": raw, "ema": {"module": mean, "decay": 0.999}},
        lambda raw, mean: {"state_dict_ema": prefixed(mean, "module."), "state_dict": prefixed(raw, "module.")},
        lambda raw, mean: prefixed(mean, "ema_model.") | prefixed(raw, "model."),
        lambda raw, mean: prefixed(mean, "model.ema.") | prefixed(raw, "model.net."),
    ],
)
def test_raw_weights_are_taken_and_averaged_ones_named_and_chosen_by_a_key(name, wrap, load):
    state = make(name).backbone.state_dict()
    content = wrap(filled(state, 0.25), filled(state, 0.5))
    value, note = load(name, content)
    assert value == 0.25
    assert "not its averaged weights (EMA)" in note
    assert "ema=true" in note
    value, note = load(name, content, ema=True)
    assert value == 0.5
    assert "its averaged weights (EMA)" in note


@EVERY
def test_averaged_weights_that_are_not_there(name, load):
    with pytest.raises(ValueError, match="no averaged weights"):
        load(name, {"model": make(name).backbone.state_dict()}, ema=True)


@EVERY
def test_a_model_that_is_there_twice(name, load):
    state = make(name).backbone.state_dict()
    one, other = filled(state, 0.25), filled(state, 0.5)
    with pytest.raises(ValueError, match="2 times, 'student' and 'teacher'"):
        load(name, {"student": one, "teacher": other})
    assert load(name, {"student": one, "teacher": one})[0] == 0.25


@EVERY
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(name, number, load):
    state = filled(make(name).backbone.state_dict(), 0.25)
    state[FILES[name]].flatten()[3:5] = number
    with pytest.raises(ValueError, match=f"{FILES[name]} has 2 numbers of .* not finite"):
        load(name, state)


@EVERY
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ""])
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_file_is_what_is_in_it_and_not_its_suffix(name, suffix, save, tmp_path):
    state, path = filled(make(name).backbone.state_dict(), 0.25), tmp_path / f"weights{suffix}"
    save(state, path)
    assert set(_weights.read(str(path))) == set(state)
    encoder = make(name, weights=str(path))
    assert encoder.load_pretrained() == ""
    assert encoder.backbone.state_dict()[FILES[name]].flatten()[0] == 0.25


def test_the_key_at_its_default_is_no_part_of_an_identity():
    from harness.config.compose import used

    for name in FILES:
        config = importlib.import_module(f"models.encoders.{name}").Config
        assert "ema" not in used(vars(config()), config)
        assert used(vars(config(ema=True)), config)["ema"] is True
