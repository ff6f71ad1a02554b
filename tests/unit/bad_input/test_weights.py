"""Weights files that are another model's, damaged, or would run code."""

import os
import pickle
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mistakes import check, fails, many
from safetensors.torch import save_file

from harness.engine import build
from models.encoders import _weights, beit


@pytest.fixture(scope="module")
def trained():
    return beit.Encoder(beit.Config(), 64).backbone.state_dict()


def load(path):
    """Fill a small BEiT from a file, as training does."""
    encoder = beit.Encoder(beit.Config(weights=str(path)), 64)
    build.load_pretrained(SimpleNamespace(encoder=encoder), "beit")


class Bomb:
    """A pickle that would write a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_whole_weights_are_taken(tmp_path, trained):
    save_file(trained, tmp_path / "weights.safetensors")
    load(tmp_path / "weights.safetensors")
    torch.save({"model": trained}, tmp_path / "weights.pth")
    load(tmp_path / "weights.pth")
    assert set(_weights.read(str(tmp_path / "weights.pth"))) == set(trained)


@pytest.mark.parametrize("wrapped", [lambda bomb: bomb, lambda bomb: {"state_dict": {}, "args": bomb}])
@pytest.mark.parametrize("dump", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_does_not(tmp_path, dump, wrapped):
    path, target = tmp_path / "weights.pth", tmp_path / "ran"
    dump(wrapped(Bomb(target)), path)
    fails(lambda: load(path), path, "could run code", ".safetensors")
    assert not target.exists()


def test_folders_and_files_that_are_not_there(tmp_path):
    fails(lambda: load(tmp_path), tmp_path, "is a folder")
    fails(lambda: load(tmp_path / "none.pth"), tmp_path / "none.pth", "no weights at")
    fails(lambda: load("~no_such_person/x.pth"), "no weights at")
    fails(lambda: load("x" * 5000), "no weights at")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    fails(lambda: load(tmp_path / "loop.pth"), "no weights at")
    odd = tmp_path / "new\nline.pth"
    odd.write_bytes(b"")
    fails(lambda: load(odd), "is not a weights file")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda state: {}, "without named tensors"),
        (lambda state: [torch.zeros(3)], "contains a list"),
        (lambda state: torch.zeros(3), "contains a Tensor"),
        (lambda state: 3, "contains a int"),
        (lambda state: {1: torch.zeros(3)}, "without named tensors"),
        (lambda state: {"layer1.0.weight": torch.zeros(3)}, "lacks"),
        (lambda state: {name: value[..., None] for name, value in state.items()}, "does not fit"),
        (lambda state: {name: value.to_sparse() for name, value in state.items()}, "does not fit"),
        (lambda state: {name: value.to(torch.complex64) for name, value in state.items()}, "does not fit"),
        (lambda state: {name: value.long() for name, value in state.items()}, "does not fit"),
    ],
)
def test_weights_of_another_model(tmp_path, trained, spoil, word):
    torch.save(spoil(trained), tmp_path / "weights.pth")
    fails(lambda: load(tmp_path / "weights.pth"), tmp_path / "weights.pth", word)


@pytest.mark.filterwarnings("ignore")
@many(150)
@given(st.data())
def test_any_damage_to_a_weights_file(place, data):
    suffix = data.draw(st.sampled_from([".safetensors", ".pth"]))
    path = place / f"weights{suffix}"
    state = {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content)))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at : at + 4] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        found = _weights.read(str(path))
    except ValueError as error:
        message = str(error)
    else:
        message = f"{path} was read"
        assert all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items())
    check(message, path)
