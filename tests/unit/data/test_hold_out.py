"""The split dev: whole units, the same for every seed, and nothing else moves."""

import pickle
from pathlib import Path

import pytest
from vspw_files import make_vspw

from harness.common.errors import UnfitError, UsageError
from harness.config import input_digests
from harness.config.compose import Config, compose
from harness.data import hold_out
from harness.plan.job import Evaluate, Train

SHARE = "data.hold_out=0.1"


def resolved(*words: str) -> Config:
    return input_digests.resolve(compose("demo", words), None)


def test_train_and_dev_are_the_training_videos() -> None:
    whole, part = input_digests.build_dataset(resolved()), input_digests.build_dataset(resolved(SHARE))
    train, dev = part.videos("train"), part.videos("dev")
    assert len(dev) == round(0.1 * len(whole.videos("train"))) == part.planned("dev") == 3
    assert sorted(train + dev) == sorted(whole.videos("train"))
    assert part.videos("val") == whole.videos("val")
    frame = part.frames("dev", dev[0])[0]
    assert (part.read("dev", dev[0], frame).image == whole.read("train", dev[0], frame).image).all()


def test_it_travels_to_data_workers() -> None:
    part = input_digests.build_dataset(resolved(SHARE))
    again = pickle.loads(pickle.dumps(part))
    assert again.videos("dev") == part.videos("dev")
    assert again.classes == part.classes


def test_recordings_are_held_out_whole() -> None:
    videos = [f"{recording}_{index}" for recording in "abc" for index in range(4)]
    held = hold_out.dev_videos(videos, lambda video: video[0], 0.1)
    assert len({video[0] for video in held}) == 1
    assert len(held) == 4


def test_one_more_video_moves_no_other() -> None:
    videos = [f"v{index}" for index in range(100)]
    before, after = (hold_out.dev_videos(some, str, 0.1) for some in (videos, [*videos, "another"]))
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_something_is_left_on_either_side(share: float) -> None:
    videos = [f"v{index}" for index in range(5)]
    assert 1 <= len(hold_out.dev_videos(videos, str, share)) <= 4


def test_one_recording_cannot_be_parted() -> None:
    with pytest.raises(UnfitError, match="are one recording"):
        hold_out.dev_videos(["a1", "a2"], lambda video: "a", 0.1)


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(UsageError, match=r"data\.hold_out"):
        compose("demo", [f"data.hold_out={share}"])


def test_fingerprints_know_what_was_held_out() -> None:
    plain, part, other = resolved(), resolved(SHARE), resolved("data.hold_out=0.2")
    trainings = [Train(config, "decoder_a") for config in (plain, part, other)]
    assert len({training.fingerprint for training in trainings}) == 3
    dev = Evaluate((trainings[1],), split="dev")
    assert dev.identity["data"]["hold_out"] == {"share": 0.1, "version": hold_out.VERSION}
    assert "hold_out" not in Evaluate((trainings[1],)).identity["data"]  # val is what it is
    assert part.iterations() < plain.iterations()


def test_the_seed_of_the_training_does_not_move_it() -> None:
    one, other = (input_digests.build_dataset(resolved(SHARE, f"seed={seed}")) for seed in (0, 1))
    assert one.videos("dev") == other.videos("dev")


def test_a_split_list_is_known_by_its_digest(tmp_path: Path) -> None:
    def dev(count: int) -> str:
        root = make_vspw(tmp_path / str(count), {"train": count, "val": 2, "test": 1})
        config = resolved("data.name=vspw", f"data.vspw.root={root}", "data.hold_out=0.3")
        return Evaluate((Train(config, "decoder_a"),), split="dev").fingerprint

    assert dev(5) != dev(6)


def test_where_the_data_is_absent_numbers_are_planned() -> None:
    config = input_digests.resolve(compose("paper", ["data.hold_out=0.1"]), None)
    assert config.content.videos["train"] == 2806 - 281


def test_how_a_training_is_looked_at_moves_nothing() -> None:
    keys = ("train.evaluate_every=7", "train.evaluate_split=val", "train.evaluate_videos=3")
    assert Train(resolved(), "decoder_a") == Train(resolved(*keys), "decoder_a")
