import shutil

import numpy as np
import pytest
import tiny_jobs
import torch
from PIL import Image
from tiny_jobs import ALONE, counts, evaluation

from harness.common.atomic_files import read_json
from harness.common.errors import UnfitError
from harness.config.compose import DataSpec
from harness.config.sections import EvaluateConfig
from harness.engine import build, evaluate, flops
from harness.engine import multistage as stages_module
from harness.engine.multistage import Stages, Windows, nbytes
from harness.engine.runtime import Rank, Stop, Stopped
from harness.engine.sliding_window import geometry
from harness.jobdir.events import Begin, Loaded, Peak, Progress, read_events
from harness.jobdir.lease import Claim, SupersededError
from harness.jobdir.paths import JobDir
from harness.launch import supervisor
from harness.plan.spec import read
from models.contract import Decoder

A, B = "a" * 16, "b" * 16


def run(*folders, rank=ALONE, stop=None):
    """Evaluate job directories in one launch."""
    tasks = [evaluate.task(folder) for folder in folders]
    for group in evaluate.same_frames(tasks):
        evaluate.evaluate(group, rank, stop or Stop())
    return [counts(folder) for folder in folders]


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[video], other[video]) for video in one)


def frames(video="val_0000"):
    dataset = build.dataset(DataSpec("synthetic", tiny_jobs.DATA))
    for name in dataset.frames("val", video):
        yield torch.from_numpy(dataset.read("val", video, name).image).permute(2, 0, 1)[None].float()


def stages_of(root, member, flip=False):
    model = evaluate.model(root / "jobs" / member, 4)
    return Stages(model, geometry(EvaluateConfig(window=32), flip=flip), "fp32", torch.device("cpu"))


def test_every_pixel_is_counted_once(root):
    folder = evaluation(root, "one", [A])
    run(folder)
    for path in (folder / "videos").glob("*.npz"):
        saved = np.load(path)
        assert saved["frames"] == 3
        assert saved["confusion"].sum() + saved["void"] == 3 * 32 * 48
        assert saved["confusion"].dtype == np.int64
    assert set(counts(folder)) == {"val_0000", "val_0001", "val_0002"}
    events, _ = read_events(folder / "events.jsonl")
    assert events[0].unit == "videos"
    assert events[0].steps == 3
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3]


def test_the_journal_parts_loading_from_work_and_tells_the_peak(root, monkeypatch):
    load, now = evaluate.load, [1000.0]
    monkeypatch.setattr("harness.jobdir.events.time.time", lambda: now[0])

    def slowly(*arguments):
        now[0] += 50
        return load(*arguments)

    monkeypatch.setattr(evaluate, "load", slowly)
    folder = evaluation(root, "one", [A])
    run(folder)
    events, _ = read_events(folder / "events.jsonl")
    kinds = [Begin, Loaded, *[Progress] * 3, Peak]
    assert [(type(event), event.time) for event in events] == [
        (kind, 1000 if kind is Begin else 1050) for kind in kinds
    ]
    outcome = supervisor.finish_evaluation(JobDir(folder), 3)
    assert outcome.peak == events[-1].bytes > 2**20
    assert outcome.seconds == 50, "with the loading: what a launch takes"


def test_cost_is_that_of_a_frame_and_a_rerun_without_work_keeps_it(root):
    folders = [evaluation(root, "a", [A]), evaluation(root, "ab2", [A, B], stage=2)]
    run(*folders)
    (own, both) = (read_json(JobDir(folder).cost_file) for folder in folders)
    assert own["frames"] == both["frames"] == 9
    assert both["seconds"] > own["seconds"] > 0
    models = [evaluate.model(root / "jobs" / member, 4) for member in (A, B)]
    assert own["parameters"] == sum(value.numel() for value in models[0].parameters())
    assert both["parameters"] == sum(value.numel() for model in models for value in model.parameters())
    for folder, cost in zip(folders, (own, both), strict=True):  # the count of `plan --count`, without weights
        job = read(folder)
        members = [read(root / "jobs" / member) for member in job.members]
        assert cost["flops"] * 3 == flops.evaluation(job, members, 4)["flops"]  # of a video of three frames
    run(*folders)
    assert read_json(JobDir(folders[0]).cost_file) == own


def test_one_launch_equals_launches_alone(root):
    folders = [evaluation(root, "l1", [A]), evaluation(root, "l2", [B]), evaluation(root, "l3", [A, B], stage=1)]
    together = run(*folders)
    alone = [
        run(evaluation(root, "m1", [A]))[0],
        run(evaluation(root, "m2", [B]))[0],
        run(evaluation(root, "m3", [A, B], stage=1))[0],
    ]
    assert all(equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not equal(together[0], together[1])


def test_ensemble_of_a_model_with_itself_is_the_model(root):
    one, twice = run(evaluation(root, "one", [A]), evaluation(root, "twice", [A, A]))
    assert equal(one, twice)


def test_order_of_two_members_does_not_matter(root):
    one = evaluation(root, "ab", [A, B])
    other = evaluation(root, "ba", [B, A])
    assert equal(*run(one, other))


def test_ensemble_is_the_argmax_of_summed_probabilities(root):
    tasks = [evaluate.task(evaluation(root, "ab", [A, B]))]
    workers = evaluate.load(tasks, 4, torch.device("cpu"))
    a, b = stages_of(root, A), stages_of(root, B)
    for image in frames():
        ((_, seen),) = evaluate.masks(tasks, workers, image, {})
        (from_a,), (from_b,) = a.predict(image, 0), b.predict(image, 0)
        assert torch.equal(seen.mask, (from_a.probabilities + from_b.probabilities).argmax(0))


def test_two_ranks_equal_one(root):
    whole = run(evaluation(root, "whole", [A]))[0]
    folder = evaluation(root, "parts", [A])
    run(folder, rank=Rank(0, 2, torch.device("cpu"), 1))
    mine = counts(folder)
    assert 0 < len(mine) < 3
    run(folder, rank=Rank(1, 2, torch.device("cpu"), 1))
    assert equal(counts(folder), whole)


def test_videos_are_shared_longest_first_and_each_once():
    lengths = {"a": 5, "b": 9, "c": 5, "d": 1, "e": 2}
    shares = [evaluate.share(lengths, rank, 2) for rank in range(2)]
    assert shares == [["b", "e"], ["a", "c", "d"]]
    assert [evaluate.share(lengths, rank, 6) for rank in range(6)] == [["b"], ["a"], ["c"], ["e"], ["d"], []]


def test_stop_keeps_finished_videos_and_going_on_completes_them(root, monkeypatch):
    folder, stop = evaluation(root, "stopped", [A]), Stop()
    save = evaluate.Counts.save

    def stop_after_the_first(self, path, *rest):
        save(self, path, *rest)
        stop.status = "preempted"

    with monkeypatch.context() as patch:
        patch.setattr(evaluate.Counts, "save", stop_after_the_first)
        with pytest.raises(Stopped):
            run(folder, stop=stop)
    assert len(counts(folder)) == 1
    kept = next((folder / "videos").glob("*.npz"))
    written = kept.stat().st_mtime_ns
    assert equal(run(folder)[0], run(evaluation(root, "fresh", [A]))[0])
    assert kept.stat().st_mtime_ns == written


def test_only_the_job_that_lacks_a_video_computes_it(root, monkeypatch):
    done, lacking = evaluation(root, "done", [A]), evaluation(root, "lacking", [A, B])
    run(done)
    asked = []
    predict = Stages.predict

    def spy(self, *arguments):
        asked.append(self)
        return predict(self, *arguments)

    monkeypatch.setattr(Stages, "predict", spy)
    run(done, lacking)
    assert len(asked) == 3 * 3 * 2  # videos × frames × members
    assert len(counts(lacking)) == 3


def test_each_member_encodes_a_window_once_for_all_jobs_and_stages(root, monkeypatch):
    from models.segmentor import Segmentor

    calls, features = [], Segmentor.features
    monkeypatch.setattr(Segmentor, "features", lambda self, images: (calls.append(1), features(self, images))[1])
    jobs = [evaluation(root, f"s{stage}", [A], stage) for stage in (0, 1, 3)]
    run(*jobs, evaluation(root, "b", [B]), evaluation(root, "ab", [A, B], 1))
    assert len(calls) == 2 * 2 * 3 * 3 + 2  # members × windows × videos × frames, and each once to count its FLOPs


def test_caches_beyond_the_limit_are_made_again_with_equal_results(root, monkeypatch):
    kept = stages_of(root, A)
    with monkeypatch.context() as patch:
        patch.setattr(stages_module, "LIMIT", 0)
        again = stages_of(root, A)
        remade = [seen for image in frames() for seen in again.predict(image, 2)]
    expected = [seen for image in frames() for seen in kept.predict(image, 2)]
    for one, other in zip(remade, expected, strict=True):
        assert torch.equal(one.probabilities, other.probabilities)
        assert one.exited == other.exited  # counted also where there was no room for the logits


def test_caches_keep_what_fits():
    made = []
    windows = Windows(Decoder(), lambda index: made.append(index) or torch.zeros(10), room=80)
    for _ in range(2):
        for index in range(3):
            windows.cache(index)
    assert made == [0, 1, 2, 2]  # two of 40 bytes fit
    assert nbytes((torch.zeros(2), {"a": [torch.zeros(3)]}, 7)) == 20


def test_past_features_are_remembered_no_further_than_needed(root):
    stages = stages_of(root, B)
    for index, image in enumerate([*frames(), *frames("val_0001")]):
        list(stages.predict(image, 0))
        assert set(stages._past) == {index - 1, index} - {-1}


def test_starting_a_video_forgets_the_one_before(root):
    stages = stages_of(root, A)
    first = [seen.probabilities for image in frames() for seen in stages.predict(image, 0)]
    stages.start()
    second = [seen.probabilities for image in frames() for seen in stages.predict(image, 0)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_mirrored_video_has_the_mirrored_output(root):
    stages, mirrored = stages_of(root, A, flip=True), stages_of(root, A, flip=True)
    for image in frames():
        (there,) = stages.predict(image, 0)
        (here,) = mirrored.predict(image.flip(-1), 0)
        assert torch.equal(here.probabilities.flip(-1), there.probabilities)


def test_scales_and_flip_change_the_counts_but_not_their_total(root):
    plain, many = run(evaluation(root, "plain", [A]), evaluation(root, "many", [A], scales=(1.0, 1.5), flip=True))
    assert {video: value.sum() for video, value in plain.items()} == {v: value.sum() for v, value in many.items()}
    assert not equal(plain, many)


def test_split_without_labels_leaves_masks(root):
    folder = evaluation(root, "masks", [A], split="test")
    (confusions,) = run(folder)
    assert all(value.sum() == 0 for value in confusions.values())
    paths = sorted((folder / "masks" / "test_0000").glob("*.png"))
    assert [path.stem for path in paths] == ["0000", "0001", "0002"]
    mask = np.array(Image.open(paths[0]))
    assert mask.shape == (32, 48)
    assert mask.dtype == np.uint8
    assert mask.max() < 4


def test_member_without_weights_is_unfit(root):
    with pytest.raises(UnfitError, match="train it first"):
        evaluate.task(evaluation(root, "early", ["c" * 16]))


def test_weights_that_changed_on_the_disk_are_unfit(root, tmp_path):
    copy = tmp_path / "jobs" / ("c" * 16)
    shutil.copytree(root / "jobs" / A, copy)
    content = bytearray((copy / "weights.safetensors").read_bytes())
    content[-1] ^= 1  # a bit of the last tensor: the file can still be read
    (copy / "weights.safetensors").write_bytes(content)
    with pytest.raises(UnfitError, match="sha256 mismatch"):
        evaluate.filled(copy, read(copy), 4)


def test_no_value_is_drawn_for_weights_that_are_loaded(root):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    evaluate.model(root / "jobs" / A, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_window_than_the_encoders_is_unfit(root):
    with pytest.raises(UnfitError, match=r"evaluate\.window=64"):
        run(evaluation(root, "wide", [A], evaluate=EvaluateConfig(window=64)))


def test_an_evaluation_that_was_taken_over_keeps_no_more_masks(root, monkeypatch):
    folder = evaluation(root, "one", [A], evaluate=EvaluateConfig(window=32, keep_masks=True))
    first = Claim(folder).take()
    tiny_jobs.set_attempt(folder, first.number)
    ahead = evaluate.read_ahead

    def taken_over(*arguments):
        for index, frame in enumerate(ahead(*arguments)):
            if index == 1:  # of three: the one whose mask is a sample
                first.renew(released=True)
                assert Claim(folder).take().number == 2
            yield frame

    monkeypatch.setattr(evaluate, "read_ahead", taken_over)
    with pytest.raises(SupersededError):
        run(folder)
    assert len(list(folder.glob("masks/*/*.png"))) == 1
    assert not (folder / "samples").exists()
