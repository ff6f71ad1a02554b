"""Metrics with counts of their own in the frame loop, and the optical flows that they may ask for."""

import shutil

import numpy as np
import pytest
import tiny_jobs
import torch
from tiny_jobs import ALONE, evaluation

from harness.common.errors import UnfitError
from harness.engine import build, evaluate, optical_flow
from harness.engine.multistage import Stages
from harness.engine.optical_flow import Flow
from harness.engine.runtime import Rank, Stop
from harness.engine.sliding_window import geometry
from harness.plan.spec import read, to_json
from harness.results.metric import ScoredFrame
from harness.results.records import maker, read_evaluation

A, B = "a" * 16, "b" * 16
METRICS = {"boundary": {"trimap": 2}, "calibration": {"bins": 10}}


def run(*folders, rank=ALONE):
    for group in evaluate.same_frames([evaluate.task(folder) for folder in folders]):
        evaluate.evaluate(group, rank, Stop())


def saved(folder):
    return {path.stem: dict(np.load(path)) for path in sorted((folder / "videos").glob("*.npz"))}


def by_hand(root, members, video):
    """The metrics of a video, from the members' summed probabilities."""
    job = read(evaluation(root, f"hand{len(members)}{video}", members))
    dataset = build.dataset(job.data)
    stages = [
        Stages(evaluate.model(root / "jobs" / member, 4), geometry(job.evaluate), "fp32", torch.device("cpu"))
        for member in members
    ]
    own = {name: maker(name, options)(4) for name, options in METRICS.items()}
    for index, name in enumerate(dataset.frames("val", video)):
        frame = dataset.read("val", video, name)
        image = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float()
        mean = sum(next(iter(list(each.predict(image, 0)))).probabilities for each in stages) / len(stages)
        probabilities = mean.numpy()
        seen = ScoredFrame(
            frame.image, frame.label, probabilities.argmax(0), index == 0, lambda p=probabilities: p, lambda *_: None
        )
        for metric in own.values():
            metric.add(seen)
    return {name: metric.sums for name, metric in own.items()}


@pytest.mark.parametrize("members", [[A], [A, B]])
def test_sums_are_of_the_models_own_probabilities(root, members):
    folder = evaluation(root, "own", members, metrics=METRICS)
    run(folder)
    for video, counts in saved(folder).items():
        expected = by_hand(root, members, video)
        for name, sums in expected.items():
            np.testing.assert_allclose(counts[f"metric_{name}"], sums, atol=1e-4)
        assert counts["metric_calibration"].shape == (3, 10)
        assert counts["metric_calibration"][0].sum() == counts["confusion"].sum()


def test_they_change_no_other_count_and_two_ranks_equal_one(root):
    plain, own, shared = (
        evaluation(root, name, [A, B], metrics=metrics)
        for name, metrics in (("plain", {}), ("own", METRICS), ("shared", METRICS))
    )
    run(plain, own)
    for index in range(2):
        run(shared, rank=Rank(index, 2, torch.device("cpu"), 1))
    for video, counts in saved(plain).items():
        assert not [key for key in counts if key.startswith("metric_")]
        for key, value in counts.items():
            np.testing.assert_array_equal(value, saved(own)[video][key])
        for key, value in saved(own)[video].items():
            np.testing.assert_array_equal(value, saved(shared)[video][key])
    assert "metrics" not in to_json(read(plain))
    makers = {name: maker(name, options) for name, options in METRICS.items()}
    final = read_evaluation(own, {"mean_iou": maker("mean_iou"), **makers}).final
    assert final["miou"] == read_evaluation(plain).final["miou"]
    total = sum(counts["metric_calibration"] for counts in saved(own).values())
    assert final["ece"] == 100 * makers["calibration"](4).values(total)["ece"]


def shifted(pixels):
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 20, 30))) * 255
    smooth = torch.nn.functional.interpolate(coarse, (160, 240), mode="bicubic").clamp(0, 255)
    wide = smooth[0].permute(1, 2, 0).to(torch.uint8).numpy()
    return wide[:, 20:220], wide[:, 20 - pixels : 220 - pixels]


def test_dis_finds_a_shift():
    pytest.importorskip("cv2", reason="the extra `flow`")
    flow = Flow(torch.device("cpu"))
    for image in shifted(4):
        flow.take(np.ascontiguousarray(image))
    field = flow("dis")
    assert field.shape == (160, 200, 2)
    inner = field[20:-20, 20:-20]
    assert np.abs(inner[..., 0] - 4).mean() < 0.5
    assert np.abs(inner[..., 1]).mean() < 0.5


@pytest.fixture(scope="module")
def raft(tmp_path_factory):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    network = raft_small(weights=None)
    torch.save(network.state_dict(), path)
    return path, network.eval()


def test_raft_has_the_weights_of_a_file_and_is_computed_once(raft, monkeypatch):
    path, network = raft
    before, now = (np.ascontiguousarray(image) for image in shifted(4))  # 160 × 200, which RAFT takes as they are
    flow = Flow(torch.device("cpu"))
    flow.take(before)
    flow.take(now)
    images = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (before, now)]
    with torch.inference_mode():
        expected = network(*images)[-1][0].permute(1, 2, 0).numpy()
    field = flow("raft_small", str(path))
    np.testing.assert_allclose(field, expected, atol=1e-4)
    monkeypatch.setattr(optical_flow.Raft, "__call__", lambda *_: pytest.fail("computed twice"))
    assert flow("raft_small", str(path)) is field


def test_raft_takes_frames_of_any_size(raft):
    flow = Flow(torch.device("cpu"))
    for seed in (0, 1):
        flow.take(np.random.default_rng(seed).integers(0, 255, (33, 50, 3), dtype=np.uint8))
    assert flow("raft_small", str(raft[0])).shape == (33, 50, 2)


def test_what_is_missing_is_said(tmp_path, raft, monkeypatch):
    with pytest.raises(UnfitError, match=r"needs weights: set metric\.temporal_consistency\.weights=FILE"):
        optical_flow.check("raft_small", None)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    with pytest.raises(UnfitError, match=r"text\.pth: not torchvision's weights for raft_small \(not a state"):
        optical_flow.check("raft_small", str(text))
    with pytest.raises(UnfitError, match="not torchvision's weights for raft_large"):
        optical_flow.check("raft_large", str(raft[0]))
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UnfitError, match=r"needs OpenCV: pip install 'memory-vsp-harness\[flow\]'"):
        optical_flow.check("dis", None)


def test_temporal_consistency_runs_in_the_frame_loop(root, raft):
    metrics = {"temporal_consistency": {"flow": "raft_small", "weights": str(raft[0])}}
    one, again = (evaluation(root, name, [A], metrics=metrics) for name in ("one", "again"))
    run(one)
    run(again)
    for video, counts in saved(one).items():
        sums = counts["metric_temporal_consistency"]
        assert sums.shape == (3, 4)
        assert 0 < sums[1].sum() == sums[2].sum() <= 2 * 32 * 48, "two pairs of three frames"
        np.testing.assert_array_equal(sums, saved(again)[video]["metric_temporal_consistency"])
    shutil.rmtree(again)
    assert tiny_jobs.counts(one).keys() == {"val_0000", "val_0001", "val_0002"}
