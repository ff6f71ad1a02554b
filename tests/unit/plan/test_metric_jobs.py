"""A chosen metric is another evaluation where it counts for itself, never another training."""

from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.config.compose import compose
from harness.launch import preflight
from harness.plan import plan, source_changes
from harness.plan.job import Evaluate, Train
from harness.results import records

CLASH = """
from dataclasses import dataclass
from harness.results.metric import Metric as Base
VERSION = 1
@dataclass(frozen=True)
class Config:
    pass
class Metric(Base):
    names = {names}
    def values(self, sums):
        return {{"miou": 0.0}}
"""


def jobs(root: Path, *words: str, folders: tuple[Path, ...] = ()):
    made = plan.make(["ablation_ensemble"], compose("demo", words, folders), root)
    kinds = {kind: [job for job in made.jobs if isinstance(job, kind)] for kind in (Train, Evaluate)}
    return kinds[Train], kinds[Evaluate]


def test_trainings_stay_and_evaluations_move_with_what_they_count(tmp_path: Path) -> None:
    trainings, evaluations = jobs(tmp_path)
    seen = {evaluations[0].fingerprint}
    for words in (
        ("evaluate.metrics=[boundary]",),
        ("evaluate.metrics=[boundary]", "metric.boundary.trimap=7"),
        ("evaluate.metrics=[boundary,calibration]",),
        ("evaluate.metrics=[calibration]",),
    ):
        other_trainings, other = jobs(tmp_path, *words)
        assert other_trainings == trainings
        assert other[0].fingerprint not in seen, words
        assert other[0].spec().metrics.keys() == {name for name in ("boundary", "calibration") if name in words[0]}
        seen.add(other[0].fingerprint)


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate.metrics=[]",),
        ("evaluate.metrics=[precision_recall]",),
        ("evaluate.metrics=[mean_iou,mvc]",),
        ("metric.boundary.trimap=7",),
    ],
)
def test_what_is_read_off_the_class_sums_moves_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert jobs(tmp_path, *words) == jobs(tmp_path)


def test_the_order_in_which_metrics_are_named_does_not_matter(tmp_path: Path) -> None:
    assert jobs(tmp_path, "evaluate.metrics=[boundary,calibration]") == jobs(
        tmp_path, "evaluate.metrics=[calibration,boundary]"
    )


def test_rafts_weights_count_by_their_content(tmp_path: Path) -> None:
    words = ["evaluate.metrics=[temporal_consistency]", "metric.temporal_consistency.flow=raft_small"]
    found = []
    for name, content in (("one", b"a"), ("copy", b"a"), ("other", b"b")):
        (tmp_path / name).write_bytes(content)
        trainings, evaluations = jobs(tmp_path, *words, f"metric.temporal_consistency.weights={tmp_path / name}")
        assert trainings == jobs(tmp_path)[0]
        found.append(evaluations[0].fingerprint)
    assert found[0] == found[1] != found[2]
    assert preflight.asked_flows(evaluations[0]) == [("raft_small", str(tmp_path / "other"))]


def test_a_metrics_file_is_a_source_of_the_evaluations_that_it_counts_in(tmp_path: Path) -> None:
    own = "harness/results/metrics/boundary.py"
    assert own not in source_changes.digests(jobs(tmp_path)[1][0])
    trainings, evaluations = jobs(tmp_path, "evaluate.metrics=[boundary]")
    assert own in source_changes.digests(evaluations[0])
    assert own not in source_changes.digests(trainings[0])
    assert "harness/results/metrics/__init__.py" in source_changes.digests(evaluations[0])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("evaluate.metrics=[boundry]", r"evaluate\.metrics: no metric 'boundry' \(did you mean 'boundary'\?\)"),
        ("evaluate.metrics=[boundary,boundary]", "'boundary' is listed twice"),
        ("metric.boundary.trimap=0", r"metric\.boundary\.trimap=0: must be a finite number, at least 1"),
    ],
)
def test_wrong_words_are_one_line(words: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        compose("demo", [words])


def test_two_metrics_of_one_number_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "mine.py").write_text(CLASH.format(names='{"miou": "mine"}'))
    (tmp_path / "metrics" / "unnamed.py").write_text(CLASH.format(names="{}"))
    config = compose("demo", ["evaluate.metrics=[mine]"], [tmp_path])
    with pytest.raises(UsageError, match="metrics 'mean_iou' and 'mine' both give 'miou'; rename one"):
        records.chosen(config)
    with pytest.raises(UsageError, match="metric 'unnamed': its class Metric must set `names`"):
        records.chosen(compose("demo", ["evaluate.metrics=[unnamed]"], [tmp_path]))
