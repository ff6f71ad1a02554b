"""train.compile: the same training by compiled kernels, under the same names, and off where the key says so."""

import pytest
import torch
from test_freezing import batch, begun
from tiny_jobs import ALONE, HEADS, stop_at, train_now, training, weights
from torch import nn
from torch._inductor.exc import InductorError

from harness.config.compose import compose
from harness.engine import error_messages, train
from harness.plan import adoption
from harness.plan.job import Train
from harness.plan.spec import TrainSpec, read_as


def steps(folder, count=2):
    """The losses and the weights of some steps in which nothing is dropped out: compiled kernels draw otherwise."""
    trainer = begun(folder)
    for module in trainer.model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
        elif type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    values = [trainer.step(iteration, [batch(trainer)], 2 * 32 * 32) for iteration in range(count)]
    return [value["loss"] for value in values], trainer.kept


@pytest.fixture
def traced(monkeypatch):
    """Dynamo's graphs, run by torch's own kernels: what takes a minute is inductor's code."""
    calls = []

    def compile_(*args, **options):
        calls.append(args)
        return original(*args, backend="eager", **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    yield calls
    torch.compiler.reset()


def test_graphs_are_those_of_the_network(tmp_path, traced):
    plain, expected = steps(training(tmp_path / "plain"))
    assert not traced
    compiled, found = steps(training(tmp_path / "compiled", compile=True))
    assert len(traced) == 2  # encoder and decoder
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(value, expected[name], atol=1e-4) for name, value in found.items())


def test_it_resumes_bit_equal_beside_an_average_and_low_rank_factors(tmp_path, monkeypatch, traced):
    options = {"decoder": "upernet", "compile": True, "ema": 0.9, "lora": 2}
    whole = train_now(training(tmp_path / "whole", **options))
    parts = training(tmp_path / "parts", **options)
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 2))
    train_now(parts)
    assert traced
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_off_is_what_it_is_without_the_key():
    def fingerprint(*words):
        return Train(adoption.resolve(compose("demo", words), None), "upernet").fingerprint

    assert fingerprint("train.compile=false") == fingerprint() != fingerprint("train.compile=true")


def test_a_machine_without_a_compiler_is_told_what_to_leave_out(tmp_path):
    job = read_as(training(tmp_path, compile=True), TrainSpec)
    error = InductorError(RuntimeError("No working C++ compiler found in (None, 'g++')"), None)
    told = error_messages.reason(error, job)
    assert told.startswith("train.compile=true: torch cannot compile this network here (")
    assert "No working C++ compiler" in told
    assert "TORCHDYNAMO" not in told
    assert told.endswith("; leave the key out")


@pytest.mark.slow
@pytest.mark.parametrize("decoder", HEADS)
def test_compiled_kernels_give_the_steps_of_torchs_own(tmp_path, decoder):
    plain, expected = steps(training(tmp_path / "plain", decoder=decoder), 3)
    compiled, found = steps(training(tmp_path / "compiled", decoder=decoder, compile=True), 3)
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert found.keys() == expected.keys()
