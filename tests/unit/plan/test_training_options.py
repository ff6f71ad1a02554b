"""Keys of training that default to None: each moves the fingerprint where it is set, and only then."""

from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.config.compose import Config, compose
from harness.plan import adoption
from harness.plan.job import Train, without_content
from harness.plan.plan import setting
from harness.results import paper

ON_DEV = ("data.hold_out=0.2", "train.evaluate_every=5")


def fingerprint(*words: str) -> str:
    return Train(resolved(*words), "upernet").fingerprint


def resolved(*words: str, root: Path | None = None) -> Config:
    return adoption.resolve(compose("demo", words), root)


@pytest.mark.parametrize(
    "word",
    [
        *("train.freeze=encoder", "train.freeze=encoder:2", "train.lora=8", "train.ema=0.999", "train.ohem=0.7"),
        *("train.class_weights=frequency", "train.class_weights=[1,2,3]", "train.dice=1", "train.lovasz=0.5"),
    ],
)
def test_a_key_moves_the_fingerprint(word: str) -> None:
    assert fingerprint(word) != fingerprint()
    key = word.partition("=")[0]
    assert fingerprint(f"{key}=null") == fingerprint()


def test_what_decides_on_dev_is_in_the_identity_and_only_then() -> None:
    plain = fingerprint("data.hold_out=0.2")
    assert fingerprint(*ON_DEV) == fingerprint(*ON_DEV, "train.keep=last") == plain
    kept = fingerprint(*ON_DEV, "train.keep=best")
    patient = fingerprint(*ON_DEV, "train.patience=3")
    assert len({plain, kept, patient, fingerprint(*ON_DEV, "train.keep=best", "train.patience=3")}) == 4
    for word in ("train.evaluate_every=4", "train.evaluate_videos=2", "evaluate.stride=20"):
        assert fingerprint("data.hold_out=0.2", "train.evaluate_every=5", word) == plain
        assert fingerprint(*ON_DEV, "train.keep=best", word) != kept
    assert fingerprint(*ON_DEV, "train.keep=best", "train.checkpoint_every=7") == kept


def test_a_start_counts_by_its_content(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one.pth", tmp_path / "two.pth", tmp_path / "other.pth"
    for path, content in ((one, b"a"), (two, b"a"), (other, b"b")):
        path.write_bytes(content)
    first = fingerprint(f"train.start={one}")
    assert first == fingerprint(f"train.start={two}") != fingerprint()
    assert first != fingerprint(f"train.start={other}")
    hashes = {Train(resolved(f"train.start={path}"), "upernet").config_hash for path in (one, other)}
    assert len(hashes | {Train(resolved(), "upernet").config_hash}) == 2
    assert without_content(Train(resolved(f"train.start={one}"), "upernet").identity)["start"] == {"version": 1}


@pytest.mark.parametrize(
    ("start", "reason"),
    [("f" * 16, "has no such job; set its directory with --root"), ("gone.pth", "no such file")],
)
def test_a_start_that_is_not_there_is_missing_content(tmp_path: Path, start: str, reason: str) -> None:
    content = resolved(f"train.start={start}", root=tmp_path).content
    assert content.files["train.start"] is None
    assert reason in content.missing[0]


def test_a_training_with_options_is_not_the_papers() -> None:
    words = (*ON_DEV, "train.keep=last")
    assert "options" not in setting(resolved(*words))
    facts = setting(resolved(*words, "train.ema=0.9", "train.freeze=encoder"))
    assert facts["options"] == "freeze, ema"
    assert "training options: freeze, ema" in paper.not_the_papers({**facts, "dataset": "vspw"})


@pytest.mark.parametrize(
    "word", ["train.ema=1.5", "train.ema=-1", "train.lora=0", "train.patience=-1", "train.keep=worst"]
)
def test_values_out_of_range_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match=word.partition("=")[0]):
        compose("demo", [word])
