"""Labels in some frames only: training, ranks and resuming; evaluation against slow code and against the dense set."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import sparse_videos
import tiny_jobs
import torch
from mlflow_server import free_port
from PIL import Image
from safetensors.torch import load_file
from sparse_videos import FOLDER
from test_distributed import CPU, _train, start
from tiny_jobs import ALONE, counts, evaluation, stop_at, train_now, training

from harness.config.compose import DataSpec
from harness.config.sections import EvaluateConfig
from harness.data.datasets.synthetic import Config, Dataset
from harness.engine import build, distributed, evaluate, prior_sources, train
from harness.engine.intermediate_evaluation import IntermediateEvaluation
from harness.engine.runtime import Rank, Stop
from harness.plan.spec import read
from harness.results import metrics
from harness.results.metrics import Consistency, consistency
from harness.results.records import read_evaluation

A, B = "a" * 16, "b" * 16
DENSE = DataSpec("synthetic", {**tiny_jobs.DATA, "frames": 10})  # the same videos, every frame labelled


def sparse_training(root, name=A, decoder="decoder_a", config=None, masks="labelled", **changes):
    data = sparse_videos.data(masks=masks)
    return training(root, name, decoder, config, data=data, plugins=(FOLDER,), **changes)


def sparse_evaluation(root, name, members, stage=0, data=None, **changes):
    return evaluation(root, name, members, stage, data=data or sparse_videos.data(), plugins=(FOLDER,), **changes)


def run(*folders, rank=ALONE):
    tasks = [evaluate.task(folder) for folder in folders]
    for group in evaluate.same_frames(tasks):
        evaluate.evaluate(group, rank, Stop())


def weights(folder):
    return load_file(folder / "weights.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("decoder", ["upernet", "decoder_b", "decoder_a"])
def test_training_equals_that_on_the_dense_set_restricted_to_the_same_frames(tmp_path, decoder):
    config = {**tiny_jobs.HEADS[decoder], **({"gt_warmup": 0.0} if decoder == "decoder_a" else {})}
    sparse = train_now(sparse_training(tmp_path / "sparse", decoder=decoder, config=config))
    dense = train_now(sparse_training(tmp_path / "dense", decoder=decoder, config=config, masks="all"))
    assert equal(weights(sparse), weights(dense))


def test_where_frame_before_has_no_label_its_own_mask_is_the_prior_from_the_first_step_on(tmp_path):
    trainer = train.Trainer(read(sparse_training(tmp_path)), 4, ALONE)
    trainer.start(None)
    frames = torch.rand(2, 2, 3, 32, 32) * 255
    labels = torch.randint(0, 4, (2, 2, 32, 32))
    labels[1, 0] = 255
    prior = trainer._prior(frames, labels, 0.0, torch.tensor([[True, True], [False, True]]))
    assert torch.equal(prior[0], labels[0, 0])
    assert torch.equal(prior[1], train.predict(trainer.model, frames[:, 0])[1])
    assert torch.equal(trainer._prior(frames, labels, 0.0, torch.ones(2, 2, dtype=torch.bool)), labels[:, 0])


def test_resumed_training_is_bit_equal(tmp_path, monkeypatch):
    whole = train_now(sparse_training(tmp_path / "whole"))
    parts = sparse_training(tmp_path / "parts")
    with monkeypatch.context() as patch:
        assert train.train(parts, ALONE, stop_at(patch, 0)).status == "preempted"
    train_now(parts)
    assert equal(weights(whole), weights(parts))


def _rank(index, world, port, root):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    rank = Rank(index, world, CPU, 1)
    with distributed.process_group(rank):
        result = _train(rank, root)
        run(root / "jobs" / ("e" * 16), rank=rank)
    torch.save(result, root / f"{index}.pt")


def test_two_ranks_equal_one_process(tmp_path):
    jobs = {name: tmp_path / name for name in ("alone", "both")}
    for root in jobs.values():
        sparse_training(root, iterations=3, lr=1e-4, config={**tiny_jobs.HEADS["decoder_a"], "gt_warmup": 0.5})
        sparse_evaluation(root, "e" * 16, [A])
    start(_rank, 2, free_port(), jobs["both"])
    alone, alone_sums, alone_gradients = _train(ALONE, jobs["alone"])
    first, first_sums, first_gradients = torch.load(jobs["both"] / "0.pt")
    for mine, whole in zip(first_sums[0], alone_sums[0], strict=True):
        assert torch.allclose(mine, whole, rtol=1e-4, atol=1e-4)
    scale = max(float(gradient.norm()) for gradient in alone_gradients[0])
    for mine, whole in zip(first_gradients[0], alone_gradients[0], strict=True):
        assert (mine - whole).norm() <= 1e-3 * whole.norm() + 1e-5 * scale
    assert torch.equal(first["decoder.memory.initialised"], alone["decoder.memory.initialised"])
    evaluated = jobs["both"] / "jobs" / ("e" * 16)
    again = sparse_evaluation(jobs["both"], "f" * 16, [A])
    run(again)
    assert counts(again).keys() == counts(evaluated).keys()
    assert all(np.array_equal(value, counts(evaluated)[video]) for video, value in counts(again).items())


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Two members trained on sparse labels, and their masks of every frame of the dense set, by evaluation."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("dense")
    train_now(sparse_training(root, A, "decoder_a"))
    train_now(sparse_training(root, B, "decoder_b"))
    keep = EvaluateConfig(window=32, keep_masks=True)
    for name, (members, stage) in CASES.items():
        run(evaluation(root, f"dense_{name}", members, stage, data=DENSE, evaluate=keep))
    return root


CASES = {"a": ([A], 0), "a_stage": ([A], 1), "b_stage": ([B], 1), "both": ([A, B], 1)}


def slow_confusion(masks, video, names):
    truths, confusion = Dataset(Config(**DENSE.config)), np.zeros((4, 4), np.int64)
    for name in names:
        mask = np.array(Image.open(masks / video / f"{name}.png"))
        for row, column in zip(truths.read("val", video, name).label.ravel(), mask.ravel(), strict=True):
            if row != 255:
                confusion[row, column] += 1
    return confusion


@pytest.mark.parametrize("name", CASES)
def test_evaluation_scores_the_masks_that_the_dense_set_gives_at_the_same_frames(dense, name):
    members, stage = CASES[name]
    folder = sparse_evaluation(dense, f"sparse_{name}", members, stage)
    run(folder)
    found = counts(folder)
    assert sorted(found) == ["val_0000", "val_0002"], "val_0001 has no label"
    for video, confusion in found.items():
        assert np.array_equal(
            confusion, slow_confusion(dense / "jobs" / f"dense_{name}" / "masks", video, ("0002", "0007"))
        )
        saved = np.load(folder / "videos" / f"{video}.npz")
        assert saved["frames"] == 8, "none after the last labelled one"
        assert saved["confusion"].sum() + saved["void"] == 2 * 32 * 48
        if stage:
            assert saved["pixels"] == 2 * 32 * 48
        assert [path.name for path in (folder / "samples" / video).iterdir()] == ["0007.png"]
    assert not (folder / "masks").exists()
    assert json.loads((folder / "cost.json").read_text())["frames"] == 4, "that were predicted, not only shown"


def test_masks_are_kept_of_every_frame_where_asked_for_and_change_no_number(dense):
    keep = EvaluateConfig(window=32, keep_masks=True)
    folder, plain = (
        sparse_evaluation(dense, name, [A], 1, **changes)
        for name, changes in (("kept", {"evaluate": keep}), ("unkept", {}))
    )
    run(folder, plain)
    for path in sorted((dense / "jobs" / "dense_a_stage" / "masks" / "val_0000").iterdir()):
        assert (folder / "masks" / "val_0000" / path.name).read_bytes() == path.read_bytes()
    assert not (plain / "masks").exists()
    for video in ("val_0000", "val_0002"):
        one, other = (np.load(where / "videos" / f"{video}.npz") for where in (folder, plain))
        assert {key: one[key].tolist() for key in one} == {key: other[key].tolist() for key in other}
    alone = sparse_evaluation(dense, "alone", [A], 1)
    run(alone)
    assert all(np.array_equal(value, counts(folder)[video]) for video, value in counts(alone).items())


def test_a_split_without_labels_leaves_masks_of_every_frame(dense):
    folder = sparse_evaluation(dense, "server", [A], split="test")
    run(folder)
    assert len(list((folder / "masks").glob("*/*.png"))) == 10


@pytest.mark.parametrize("prior", ["truth", "truth_before", "truth_other"])
def test_truth_as_prior_is_that_of_labelled_frames(dense, prior):
    evaluated = sparse_evaluation(dense, prior, [A], prior=prior)
    kept = sparse_evaluation(
        dense, f"{prior}_kept", [A], prior=prior, evaluate=EvaluateConfig(window=32, keep_masks=True)
    )
    run(evaluated)
    run(kept)
    assert all(np.array_equal(value, counts(kept)[video]) for video, value in counts(evaluated).items())
    assert sorted(path.name for path in (kept / "masks" / "val_0000").iterdir()) == ["0002.png", "0007.png"]
    data = build.dataset(sparse_videos.data(), (FOLDER,))
    assert prior_sources.labelled_before(data, "val", "val_0000", "0007") == "0002"
    assert prior_sources.labelled_before(data, "val", "val_0000", "0002") == "0002", "none before: itself"


def test_an_intermediate_evaluation_is_the_evaluation_itself(dense):
    job = read(dense / "jobs" / A)
    job = replace(job, train=replace(job.train, evaluate_every=2, evaluate_split="val"))
    data = build.dataset(job.data, job.plugins)
    looked = IntermediateEvaluation(job, data, ALONE)
    assert looked.videos == ("val_0000", "val_0002")
    folder = sparse_evaluation(dense, "final", [A])
    run(folder)
    value = looked.miou(evaluate.model(dense / "jobs" / A, 4), 6, Stop())
    assert value == pytest.approx(100 * metrics.miou(sum(counts(folder).values())), abs=1e-9)


def test_consistency_counts_runs_of_labelled_frames_as_videos(dense):
    data = sparse_videos.data(pattern="xxxxxxxxx.", frames=20, height=16, width=16)
    spec = sparse_videos.data(frames=20, height=16, width=16).config
    dense_data = DataSpec("synthetic", {key: spec[key] for key in ("frames", "height", "width", *tiny_jobs.DATA)})
    run(evaluation(dense, "long", [A], data=dense_data, evaluate=EvaluateConfig(window=32, keep_masks=True)))
    folder = sparse_evaluation(dense, "runs", [A], data=data)
    run(folder)
    truths = Dataset(Config(**dense_data.config))
    totals = []
    for video in ("val_0000", "val_0002"):
        for first in (0, 10):
            alone = Consistency(4)
            for time in range(first, first + 9):
                mask = np.array(Image.open(dense / "jobs" / "long" / "masks" / video / f"{time:04d}.png"))
                alone.add(truths.read("val", video, f"{time:04d}").label, mask)
            totals.append(alone.totals)
    record = read_evaluation(folder)
    assert np.allclose(sum(record.vc.values()), sum(totals), atol=1e-12)
    expected = consistency(totals)
    assert set(expected) == {"mvc8", "mvc8_strict"}, "no run of 16 frames: not known"
    assert {key: record.final[key] / 100 for key in expected} == pytest.approx(expected)
    assert "mvc16" not in record.final


def test_no_two_labelled_frames_follow_each_other_no_consistency(dense):
    folder = sparse_evaluation(dense, "single", [A])
    run(folder)
    assert not [key for key in read_evaluation(folder).final if key.startswith("mvc")]
