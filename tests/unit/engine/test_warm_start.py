"""A training that begins from another's weights: what fits is taken, what does not is named."""

from dataclasses import replace

import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file, save_file
from tiny_jobs import ALONE, messages, stop_at, train_now, training, weights

from harness.common.errors import UnfitError
from harness.engine import build, train, warm_start
from harness.plan.spec import TrainSpec, read_as


def network(root, name="a" * 16, classes=4, **changes):
    job = read_as(training(root, name, **changes), TrainSpec)
    return build.segmentor(job, classes)


@pytest.fixture
def source(tmp_path):
    """Weights of an untrained Decoder A of four classes."""
    return str(tiny_jobs.untrained(tmp_path / "source") / "weights.safetensors")


def test_a_model_takes_all_of_its_own(tmp_path, source):
    model = network(tmp_path)
    note = warm_start.load(model, source)
    stored = load_file(source)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert note == f"warm start from {source}: {len(stored)} of {len(stored)} tensors taken"


def test_what_depends_on_k_is_left_fresh_and_named(tmp_path, source):
    model = network(tmp_path, classes=7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    note = warm_start.load(model, source)
    stored = load_file(source)
    other = {name for name, value in before.items() if value.shape != stored[name].shape}
    assert {"decoder.memory.rows", "decoder.memory.initialised"} <= other
    classifiers = {name.rpartition(".")[0] for name in other if name.endswith(".weight")}
    assert len(classifiers) >= 2  # main and auxiliary
    for name, value in model.state_dict().items():
        kept_fresh = name in other or name.rpartition(".")[0] in classifiers
        assert torch.equal(value, before[name] if kept_fresh else stored[name]), name
        assert (name in note) == (name in other), name
    assert "decoder.memory.rows (4 × 8 there, 7 × 8 here)" in note


def test_a_layer_takes_all_of_its_tensors_or_none(tmp_path, source):
    """A memory of another width: its rows are fresh, so which of them are set must be, too."""
    wide = {**tiny_jobs.HEADS["decoder_a"], "memory_channels": 16}
    model = network(tmp_path, config=wide)
    note = warm_start.load(model, source)
    assert not model.state_dict()["decoder.memory.initialised"].any()
    assert note.endswith("; fresh with them: decoder.coarse.1.bias, decoder.memory.initialised")


def test_another_decoder_shares_the_encoder_alone(tmp_path, source):
    model = network(tmp_path, decoder="upernet")
    note = warm_start.load(model, source)
    stored = load_file(source)
    own = model.state_dict()
    assert all(torch.equal(own[name], stored[name]) for name in own if name.startswith("encoder."))
    assert "decoder.memory.* (2)" in note.partition("not part of this model: ")[2]


def test_missing_and_foreign_tensors_are_named(tmp_path, source):
    stored = load_file(source)
    kept = {name: value for name, value in stored.items() if not name.startswith("encoder.pyramid.")}
    path = str(tmp_path / "part.safetensors")
    save_file(kept | {"optimizer.step": torch.zeros(1)}, path)
    note = warm_start.load(network(tmp_path), path)
    gone = len([name for name in stored.keys() - kept.keys() if not name.endswith("num_batches_tracked")])
    assert f"missing from the file: encoder.pyramid.* ({gone})" in note
    assert note.endswith("not part of this model: optimizer.step")


@pytest.mark.parametrize("form", ["module", "torch"])
def test_wrapped_and_torch_files_are_read(tmp_path, source, form):
    stored = load_file(source)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in stored.items()}, "epoch": 3}, path)
    if form == "torch":
        torch.save(stored, path)
    model = network(tmp_path)
    assert f"{len(stored)} of {len(stored)} tensors taken" in warm_start.load(model, str(path))
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_files_of_no_use_are_refused(tmp_path, source):
    other = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(3, 3)}, other)
    with pytest.raises(UnfitError, match="none of its 1 tensors fits this model"):
        warm_start.load(network(tmp_path), str(other))
    wild = load_file(source)
    wild["decoder.classifier.1.weight"].fill_(torch.nan)
    save_file(wild, other)
    with pytest.raises(UnfitError, match=r"decoder.classifier.1.weight contains values that are not numbers \(nan\)"):
        warm_start.load(network(tmp_path / "again"), str(other))
    other.write_bytes(b"{}")
    with pytest.raises(UnfitError, match=r"train.start: .*is not a weights file"):
        warm_start.load(network(tmp_path / "third"), str(other))
    with pytest.raises(UnfitError, match="is not the file that the plan was made with"):
        warm_start.load(network(tmp_path / "fourth"), source, "0" * 64)


def test_classes_of_other_names_are_told(tmp_path, trained):
    path = str(trained / "jobs" / ("a" * 16) / "weights.safetensors")
    classes = warm_start.stored_classes(path)
    assert len(classes) == 4
    assert warm_start.other_classes(path, classes) == ""
    assert warm_start.other_classes(path, classes[:3]) == ""  # left fresh
    line = warm_start.other_classes(path, (*classes[:3], "sky"))
    assert f"label 3 is {classes[3]} in {path} and sky here" in line
    del tmp_path


def test_a_training_begins_there_says_so_and_resumes_bit_equal(tmp_path, monkeypatch, trained):
    start = str(trained / "jobs" / ("a" * 16) / "weights.safetensors")
    whole = train_now(training(tmp_path / "whole", start=start))
    assert [line for line in messages(whole) if line.startswith(f"warm start from {start}")]
    scratch = train_now(training(tmp_path / "scratch"))
    assert any(not torch.equal(value, weights(scratch)[name]) for name, value in weights(whole).items())
    parts = training(tmp_path / "parts", start=start)
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 2))
    monkeypatch.setattr(warm_start, "load", None)  # a checkpoint has the weights
    train_now(parts)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_the_weights_of_iteration_0_are_the_files(tmp_path, source):
    job = read_as(training(tmp_path, start=source), TrainSpec)
    trainer = train.Trainer(job, 4, ALONE)
    trainer.start(None)
    stored = load_file(source)
    assert all(torch.equal(value, stored[name]) for name, value in trainer.model.state_dict().items())
    job = replace(job, identity={"start": {"content": {"train.start": "1" * 64}}})
    with pytest.raises(UnfitError, match="is not the file that the plan was made with"):
        train.Trainer(job, 4, ALONE).start(None)
