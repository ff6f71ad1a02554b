"""Stages, with members whose weights are random and whose memory is full: nothing here needs a training."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_jobs
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from test_sliding_window import slow_slide
from tiny_jobs import ALONE, counts, evaluation, training

from harness.common.errors import UnfitError
from harness.config.compose import DataSpec
from harness.config.sections import EvaluateConfig
from harness.engine import build, evaluate, sliding_window
from harness.engine.multistage import Prediction, Stages
from harness.engine.runtime import Stop
from harness.engine.sliding_window import geometry
from harness.plan.spec import read
from models.layers.context_read import class_counts, to_grid
from models.layers.pyramid import UPerHead

A, B, U = "a" * 16, "b" * 16, "c" * 16
CLASSES = tiny_jobs.DATA["classes"]
MEAN_COLOUR = torch.tensor([123.675, 116.28, 103.53])[:, None, None]  # of ImageNet, what the padding is


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """A root with Decoder A, Decoder B and UPerNet, untrained."""
    root = tmp_path_factory.mktemp("members")
    for seed, (name, decoder) in enumerate(((A, "decoder_a"), (B, "decoder_b"), (U, "upernet"))):
        folder = training(root, name, decoder)
        torch.manual_seed(seed)
        state = build.segmentor(read(folder), CLASSES).state_dict()
        for key, value in state.items():
            if key.endswith("memory.rows"):
                value.copy_(torch.randn_like(value) * 4)
            elif key.endswith("memory.initialised"):
                value.fill_(True)
            elif key.endswith("classifier.1.weight"):
                value.mul_(20)  # so that masks have several classes, and P matters
        save_file({key: value.contiguous() for key, value in state.items()}, folder / "weights.safetensors")
    return root


@pytest.fixture
def root(members, tmp_path):
    (tmp_path / "jobs").mkdir()
    for member in (A, B, U):
        (tmp_path / "jobs" / member).symlink_to(members / "jobs" / member)
    return tmp_path


def run(*folders):
    for group in evaluate.same_frames([evaluate.task(folder) for folder in folders]):
        evaluate.evaluate(group, ALONE, Stop())


def chain(root, members, last, **changes):
    """Jobs of stages 0 to `last`, each naming the one before."""
    made = []
    for stage in range(last + 1):
        name = f"{len(members)}{members[0][0]}{stage}{len(changes)}"
        prior = made[-1].name if made else None
        made.append(evaluation(root, name, list(members), stage, prior=prior, **changes))
    return made


def saved(folder):
    """A job's arrays by video."""
    return {path.stem: dict(np.load(path)) for path in sorted((folder / "videos").glob("*.npz"))}


def pictures(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("masks/*/*.png"))}


def frames(video="val_0000"):
    dataset = build.dataset(DataSpec("synthetic", tiny_jobs.DATA))
    for name in dataset.frames("val", video):
        yield torch.from_numpy(dataset.read("val", video, name).image).permute(2, 0, 1)[None].float()


def stages_of(root, member, scales=(1.0,), flip=False, stride=None):
    model = evaluate.model(root / "jobs" / member, CLASSES)
    return Stages(
        model, geometry(EvaluateConfig(window=32, stride=stride), tuple(scales), flip), "fp32", torch.device("cpu")
    )


def predictions(stages, last=2):
    return [seen for image in frames() for seen in stages.predict(image, last)]


KEEP = {"evaluate": EvaluateConfig(window=32, keep_masks=True)}


@pytest.mark.parametrize("member", [A, B])
def test_stages_in_the_loop_equal_stages_from_saved_masks(root, member):
    made = chain(root, [member], 2, **KEEP)
    run(*made)
    assert any(pictures(made[0])[name] != pictures(made[1])[name] for name in pictures(made[0]))
    for stage in (1, 2):
        before = made[stage - 1]
        how = replace(KEEP["evaluate"], prior_masks=str(before))
        alone = evaluation(root, f"alone{stage}", [member], stage, prior=before.name, evaluate=how)
        run(alone)
        assert pictures(alone) == pictures(made[stage])
        for video, counted in counts(made[stage]).items():
            assert np.array_equal(counts(alone)[video], counted)
            assert saved(alone)[video]["moved"] == saved(made[stage])[video]["moved"]


@pytest.mark.parametrize("member", [A, B, U])
def test_the_early_exit_changes_nothing(root, member, monkeypatch):
    with_exit = predictions(stages_of(root, member), 3)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "equal", lambda one, other: False)  # no key is ever that of the stage before
        without = predictions(stages_of(root, member), 3)
    assert not any(seen.exited for seen in without)
    assert sum(seen.exited or 0 for seen in with_exit) > 0
    for one, other in zip(with_exit, without, strict=True):
        assert torch.equal(one.probabilities, other.probabilities)
        assert torch.equal(one.mask, other.mask)


def test_a_decoder_that_reads_no_mask_is_at_its_fixed_point_at_once(root):
    for index, seen in enumerate(predictions(stages_of(root, U), 2)):
        assert (seen.windows, seen.exited) == (2, 2 if index % 3 else None)


def test_only_how_often_p_names_a_class_matters(root):
    decoder = stages_of(root, A).model.decoder
    features = stages_of(root, A).model.features(next(frames())[..., :32, :32])
    mask = torch.randint(0, CLASSES, (1, 4, 4), generator=torch.Generator().manual_seed(0))
    moved = mask.flatten(1)[:, torch.randperm(16, generator=torch.Generator().manual_seed(1))].view(1, 4, 4)
    with torch.inference_mode():
        cache = decoder.encode(features)
        assert not torch.equal(mask, moved)
        assert torch.equal(decoder.prior_key(cache, mask), decoder.prior_key(cache, moved))
        assert torch.equal(decoder.predict(cache, mask), decoder.predict(cache, moved))
        other = torch.zeros_like(mask)
        assert not torch.equal(decoder.prior_key(cache, mask), decoder.prior_key(cache, other))
        assert not torch.equal(decoder.predict(cache, mask), decoder.predict(cache, other))


def test_what_a_stage_counts(root):
    made = chain(root, [A], 1, **KEEP)
    run(*made)
    for video, counted in saved(made[1]).items():
        assert (counted["pixels"], counted["windows"]) == (3 * 32 * 48, 3 * 2)
        assert 0 <= counted["exited"] <= counted["windows"]
        pairs = [
            [np.asarray(evaluate.Image.open(folder / "masks" / video / f"{frame:04}.png")) for folder in made]
            for frame in range(3)
        ]
        assert counted["moved"] == sum((one != other).sum() for one, other in pairs)
    assert not {"pixels", "moved", "windows", "exited"} & next(iter(saved(made[0]).values())).keys()


def test_a_window_exits_exactly_where_its_class_counts_stay(root):
    made = chain(root, [A], 3, **KEEP)
    run(*made)
    stages = stages_of(root, A)
    tiles = sliding_window.tiles(32, 48, stages.geometry, stages.accepts)
    views = sliding_window.views(32, 48, stages.geometry)
    known = stages.model.decoder.memory.initialised

    def keys(folder, video, frame):
        """Class counts of every window, on R's grid of 4 × 4."""
        mask = np.array(evaluate.Image.open(folder / "masks" / video / f"{frame:04}.png"))
        seen = [sliding_window.see_mask(torch.from_numpy(mask).long(), view) for view in views]
        parts = [sliding_window.cut_mask(seen[tile.view], tile) for tile in tiles]
        return [class_counts(to_grid(part, (4, 4)), known).tolist() for part in parts]

    for earlier, before, at in zip(made, made[1:], made[2:], strict=False):
        for video, counted in saved(at).items():
            pairs = [
                pair
                for frame in range(3)
                for pair in zip(keys(earlier, video, frame), keys(before, video, frame), strict=True)
            ]
            assert counted["exited"] == sum(one == other for one, other in pairs)


def test_the_ensemble_case_of_the_oracle():
    case = json.loads((Path(__file__).parents[2] / "data" / "oracle.json").read_text())["ensemble"]
    total = None
    for name in ("logits_A", "logits_B"):
        logits = torch.tensor(case["inputs"][name], dtype=torch.float64).T[:, None]  # (K, 1, pixels)
        found = Prediction(logits.softmax(0), logits.argmax(0), 1, None)
        total = evaluate.Sum(found, True) if total is None else total.add(found)
    assert total.mask().tolist() == [case["expected"]["label"]]
    torch.testing.assert_close(total._total[:, 0].T, torch.tensor(case["expected"]["prob_sum"], dtype=torch.float64))


def test_probabilities_are_added_and_not_logits():
    sure, unsure = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([[0.0, 4.0, 0.0], [0.0, 4.0, 0.0]])
    members = [logits[:, None, None] for logits in (sure, *unsure)]
    total = evaluate.Sum(Prediction(members[0].softmax(0), members[0].argmax(0), 1, None), True)
    for logits in members[1:]:
        total = total.add(Prediction(logits.softmax(0), logits.argmax(0), 1, None))
    assert total.mask().item() == 1  # two against one
    assert sum(members).argmax(0).item() == 0


def test_each_member_of_an_ensemble_goes_on_with_its_own_mask(root):
    (_, last) = chain(root, [A, B], 1, **KEEP)
    tasks = [evaluate.task(last)]
    workers = evaluate.load(tasks, CLASSES, torch.device("cpu"))
    a, b = stages_of(root, A), stages_of(root, B)
    for image in frames():
        ((_, seen),) = evaluate.masks(tasks, workers, image, {})
        (a0, a1), (b0, b1) = a.predict(image, 1), b.predict(image, 1)
        assert torch.equal(seen.mask, (a1.probabilities + b1.probabilities).argmax(0))
        assert torch.equal(seen.before, (a0.probabilities + b0.probabilities).argmax(0))
        assert (seen.windows, seen.exited) == (4, a1.exited + b1.exited)


def test_the_truth_as_p_is_the_frames_own_labels(root):
    truth = evaluation(root, "truth", [A], prior="truth", **KEEP)
    run(truth)
    dataset, stages = build.dataset(read(truth).data), stages_of(root, A)
    for name, image in zip(dataset.frames("val", "val_0000"), frames(), strict=True):
        label = torch.from_numpy(dataset.read("val", "val_0000", name).label).long()
        first, given = stages.predict(image, 0, [label])
        assert given.exited is None
        picture = np.asarray(evaluate.Image.open(truth / "masks" / "val_0000" / f"{name}.png"))
        assert np.array_equal(picture, given.mask.numpy())
        assert first.exited is None
    assert "exited" not in saved(truth)["val_0000"]
    assert saved(truth)["val_0000"]["pixels"] == 3 * 32 * 48


def test_the_truth_may_be_that_of_the_frame_before_or_of_a_frame_of_another_video(root):
    before, other = (evaluation(root, f"of_{name}", [A], prior=f"truth_{name}", **KEEP) for name in ("before", "other"))
    run(before, other)
    dataset, stages = build.dataset(read(before).data), stages_of(root, A)
    names = dataset.frames("val", "val_0000")
    elsewhere = [
        torch.from_numpy(dataset.read("val", video, name).label).long()
        for video in dataset.videos("val")[1:]
        for name in names
    ]
    used = []
    for index, (name, image) in enumerate(zip(names, frames(), strict=True)):
        label = torch.from_numpy(dataset.read("val", "val_0000", names[max(0, index - 1)]).label).long()
        _, given, *others = stages.predict(image, 0, [label, *elsewhere])
        masks = [
            torch.from_numpy(np.array(evaluate.Image.open(f / "masks/val_0000" / f"{name}.png")))
            for f in (before, other)
        ]
        assert torch.equal(masks[0], given.mask)
        used.append([torch.equal(masks[1], one.mask) for one in others])
    assert all(any(row) for row in used)


def test_a_control_changes_its_own_evaluation_alone(root):
    plain, permuted = (
        evaluation(root, "plain", [A], **KEEP),
        evaluation(root, "p", [A], control="permuted_memory", **KEEP),
    )
    run(plain, permuted)
    stages, controlled = stages_of(root, A), stages_of(root, A)
    controlled.model.decoder.control = "permuted_memory"
    pictures = {plain: [], permuted: []}
    for index, image in enumerate(frames()):
        for folder, who in ((plain, stages), (permuted, controlled)):
            (expected,) = who.predict(image, 0)
            picture = np.array(evaluate.Image.open(folder / "masks" / "val_0000" / f"{index:04}.png"))
            assert np.array_equal(picture, expected.mask.numpy())
            pictures[folder].append(picture)
    assert not np.array_equal(pictures[plain], pictures[permuted])


def test_a_control_that_the_decoder_has_not_is_refused(root):
    with pytest.raises(UnfitError, match="control current_past: this decoder has permuted_memory, uniform_prior"):
        run(evaluation(root, "p", [A], control="current_past"))
    with pytest.raises(UnfitError, match="this decoder has none"):
        run(evaluation(root, "u", [U], control="current_past"))


def test_the_truth_needs_labels(root):
    with pytest.raises(UnfitError, match="needs labels"):
        run(evaluation(root, "truth", [A], prior="truth", split="test"))


def test_both_tables_encode_each_window_once_a_member(root, monkeypatch):
    """UPerNet, A, B, A+B; A at stages 1 to 3 and with the truth; B's and A+B's stage 1."""
    from models.segmentor import Segmentor

    calls, features = [], Segmentor.features
    monkeypatch.setattr(Segmentor, "features", lambda self, images: (calls.append(1), features(self, images))[1])
    heads, head = [], UPerHead.forward
    monkeypatch.setattr(UPerHead, "forward", lambda self, levels: (heads.append(1), head(self, levels))[1])
    table = [evaluation(root, name, list(who)) for name, who in (("u", [U]), ("b", [B]), ("ab", [A, B]))]
    more = [evaluation(root, "truth", [A], prior="truth"), evaluation(root, "ab1", [A, B], 1, prior="ab")]
    run(*table, *chain(root, [A], 3), *more)
    assert len(calls) == 3 * 2 * 3 * 3 + 3  # members × windows × videos × frames, and each once to count its FLOPs
    assert len(heads) == len(calls)  # a stage is only what depends on P


def test_mirrored_video_has_the_mirrored_output_at_every_stage_and_scale(root):
    options = {"scales": [0.75, 1.0, 1.5], "flip": True}  # at 0.75 a view is smaller than a window
    there, here = stages_of(root, A, **options), stages_of(root, A, **options)
    for image in frames():
        pairs = zip(there.predict(image, 2), here.predict(image.flip(-1), 2), strict=True)
        for one, other in pairs:
            assert torch.allclose(other.probabilities.flip(-1), one.probabilities, atol=1e-5)


def slowly(model, seen, prior, scales, flips):
    """A frame's probabilities for P (H, W) or None: every scale, mirror image and window by itself, from the frames."""
    height, width = seen[-1].shape[-2:]
    total = torch.zeros(CLASSES, height, width, dtype=torch.float64)
    for scale, mirrored in itertools.product(scales, flips):
        size = int(height * scale + 0.5), int(width * scale + 0.5)
        turn = (lambda value: value.flip(-1)) if mirrored else (lambda value: value)
        views = [F.interpolate(turn(frame), size, mode="bilinear") for frame in seen]
        mask = None if prior is None else F.interpolate(turn(prior)[None, None].double(), size, mode="nearest-exact")
        summed, count = torch.zeros(CLASSES, *size, dtype=torch.float64), torch.zeros(size)
        for top, left, bottom, right in slow_slide(*size, 32, 21):
            place = (..., slice(top, bottom), slice(left, right))
            border = (0, 32 - (right - left), 0, 32 - (bottom - top))
            crops = [F.pad(view[place] - MEAN_COLOUR, border) + MEAN_COLOUR for view in views]
            past = tuple(model.features(crops[max(len(crops) - 1 + offset, 0)]) for offset in model.decoder.past)
            given = None if mask is None else F.pad(mask[place], border, value=255)[0].long()
            logits = model.decoder.predict(model.decoder.encode(model.features(crops[-1]), past), given)
            whole = F.interpolate(logits, (32, 32), mode="bilinear")[0].double().softmax(0)
            summed[place] += whole[:, : bottom - top, : right - left]
            count[top:bottom, left:right] += 1
        total += turn(F.interpolate((summed / count)[None], (height, width), mode="bilinear")[0])
    return total / (len(flips) * len(scales))


@pytest.mark.parametrize("member", [A, B])
@pytest.mark.parametrize(("scales", "flips"), [([1.0], [False]), ([0.75, 1.0, 1.5], [False, True])])
@torch.inference_mode()
def test_stages_equal_a_slow_reference(root, member, scales, flips):
    """Stages read off the cache against a new pass over the frames for each, with P handed in from outside."""
    quick, slow = stages_of(root, member, scales=scales, flip=True in flips), stages_of(root, member)
    seen, previous = [], None
    for image in frames():
        seen.append(image)
        prior = previous if slow.model.decoder.prior == "previous" else None
        for stage, found in enumerate(quick.predict(image, 2)):
            expected = slowly(slow.model, seen, prior, scales, flips)
            assert torch.allclose(found.probabilities.double(), expected, atol=1e-5), stage
            prior = found.mask  # where two classes are level, rounding decides
            previous = found.mask if stage == 0 else previous


def test_p_is_fused_over_all_views_then_seen_by_each(root, monkeypatch):
    stages = stages_of(root, A, scales=[0.75, 1.5], flip=True)
    given, see = [], sliding_window.see_mask
    monkeypatch.setattr(sliding_window, "see_mask", lambda mask, view: (given.append((mask, view)), see(mask, view))[1])
    first, second = stages.predict(next(frames()), 1)
    assert [view for _, view in given] == sliding_window.views(32, 48, stages.geometry)
    assert all(mask is first.mask for mask, _ in given)
    assert first.probabilities.shape == second.probabilities.shape == (CLASSES, 32, 48)


def test_saved_masks_of_another_size_or_with_other_labels_are_unfit(root):
    before = chain(root, [A], 0, **KEEP)[0]
    run(before)
    how = replace(KEEP["evaluate"], prior_masks=str(before))
    path = before / "masks" / "val_0000" / "0000.png"
    for number, (array, said) in enumerate(
        ((np.zeros((8, 8), np.uint8), "is 8×8, its frame 48×32"), (np.full((32, 48), 200, np.uint8), "contains 200"))
    ):
        evaluate.Image.fromarray(array).save(path)
        with pytest.raises(UnfitError, match=said):
            run(evaluation(root, f"next{number}", [A], 1, prior=before.name, evaluate=how))
    path.unlink()
    with pytest.raises(UnfitError, match="no such file"):
        run(evaluation(root, "next", [A], 1, prior=before.name, evaluate=how))


def test_weights_that_do_not_fit_are_one_clear_line(root, members):
    with pytest.raises(UnfitError, match=r"does not fit its job with 7 classes: decoder\.classifier.* is 4 ×"):
        evaluate.model(root / "jobs" / A, 7)
    state = load_file(members / "jobs" / A / "weights.safetensors")
    other = training(root, "d" * 16, "decoder_a")
    save_file(state, other / "weights.safetensors", metadata={"fingerprint": A})
    with pytest.raises(UnfitError, match=f"belongs to the training {A}"):
        evaluate.model(other, CLASSES)
    (other / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(UnfitError, match="cannot be read"):
        evaluate.model(other, CLASSES)
    tiny_jobs.rewrite(other, replace(read(other), fingerprint="e" * 16))
    save_file(state, other / "weights.safetensors")
    with pytest.raises(UnfitError, match="belongs to the training e"):
        evaluate.model(other, CLASSES)
