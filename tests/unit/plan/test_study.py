"""A search as a value: its space, its trials' jobs, and what makes two studies different."""

from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.config.compose import compose
from harness.plan import study
from harness.plan.job import Evaluate, Train
from harness.plan.search_space import Choice, Uniform, Whole
from harness.plan.study import Study

M, SCHEDULE = "decoder.decoder_a.momentum", "decoder.decoder_a.schedule"


def demo_study(*words: str, preset: str = "demo", split: str = "dev") -> Study:
    return study.make("momentum", compose(preset, words), Path("nowhere"), split)


def own(folder: Path, space: str) -> Path:
    """A search of one's own with another space."""
    text = (Path(__file__).parents[3] / "experiments/searches/momentum.py").read_text()
    path = folder / "mine.py"
    begin, end = text.index("SPACE = {"), text.index("HOLD_OUT")
    path.write_text(text[:begin] + f"SPACE = {space}\n" + text[end:])
    return path


def test_a_trial_is_a_job_like_any_other() -> None:
    one = demo_study()
    job = one.job({M: 0.25, SCHEDULE: "fixed"}, seed=4)
    same = one.config.with_values({M: 0.25, SCHEDULE: "fixed"}).with_seed(4)
    assert job == Evaluate((Train(same, "decoder_a"),), split="dev")
    assert job.members[0].spec().train.evaluate_every == one.config.train.evaluate_every


def test_the_default_is_the_configuration_as_it_stands() -> None:
    assert demo_study().default == {M: 0.9, SCHEDULE: "poly"}
    assert demo_study(f"{M}=0.5").default == {M: 0.5, SCHEDULE: "poly"}
    whole = Train(compose("demo"), "decoder_a")
    assert (
        demo_study(split="val").job(demo_study().default, 0).members[0].identity["decoder"] == whole.identity["decoder"]
    )


def test_on_val_nothing_is_held_out() -> None:
    on_val = demo_study(split="val")
    assert on_val.config["data"]["hold_out"] is None
    assert on_val.job(on_val.default, 0).split == "val"


def test_there_is_room_for_every_look() -> None:
    one = demo_study()
    every = one.config.train.evaluate_every
    assert every is not None
    assert (one.looks - 1) * every < one.iterations <= one.looks * every


def test_a_trial_has_a_name_for_people() -> None:
    assert demo_study().label({M: 0.03123, SCHEDULE: "poly"}) == "m=0.031 poly"


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (f"{{'{M}': Uniform(-0.1, 0.95, log=True)}}", "must be above 0"),
        (f"{{'{M}': Uniform(0.0, 0.95, log=True)}}", "must be above 0"),
        (f"{{'{M}': Uniform(0.9, 0.1)}}", "is not a range"),
        (f"{{'{SCHEDULE}': Choice(('poly',))}}", "leaves no choice"),
        ("{'decoder.decoder_a.momentun': Uniform(0, 1)}", "did you mean 'momentum'"),
        (f"{{'{M}': Uniform(0.1, 0.5)}}", "the default, is outside the search space"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_a_line(tmp_path: Path, space: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        study.make(str(own(tmp_path, space)), compose("demo"), tmp_path)
    assert "\n" not in str(caught.value)


def test_another_split_is_refused() -> None:
    with pytest.raises(UsageError, match=r"split=vall \(did you mean 'val'\?\)"):
        demo_study(split="vall")
    assert study.split_of(["split=val", "train.epochs=1"]) == ("val", ["train.epochs=1"])


def test_a_file_that_is_no_search_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("TITLE = 'x'\n")
    with pytest.raises(UsageError, match="SPACE is missing"):
        study.make(str(tmp_path / "mine.py"), compose("demo"), tmp_path)


def test_what_a_study_is_is_told_by_its_keys() -> None:
    one = demo_study()
    assert study.differences(one.identity, demo_study().identity) == []
    study.refuse(one, demo_study().identity, ["momentum"])
    with pytest.raises(UsageError, match=r"different train\.train\.epochs \(3 there, 10 here\).*--study momentum_demo"):
        study.refuse(one, demo_study("train.epochs=3").identity, ["momentum"])
    with pytest.raises(UsageError, match=r"different preset \(camvid there, demo here\).* and \d+ more; .*--study"):
        study.refuse(one, demo_study(preset="camvid").identity, ["momentum", "momentum_demo"])


def test_another_space_is_another_study(tmp_path: Path) -> None:
    other = study.make(str(own(tmp_path, f"{{'{M}': Uniform(0.1, 0.9)}}")), compose("demo"), tmp_path)
    keys = {difference.key for difference in study.differences(demo_study().identity, other.identity)}
    assert {f"space.{M}", f"space.{SCHEDULE}"} <= keys


def test_axes_hold_what_they_say() -> None:
    assert Uniform(0.1, 1).holds(0.1)
    assert not Uniform(0.1, 1).holds("0.1")
    assert Whole(1, 4).holds(4)
    assert not Whole(1, 4).holds(2.5)
    assert Choice(("a", None)).holds(None)
    assert Whole(1, 4, log=True).description() == "whole, log-uniform in [1, 4]"
