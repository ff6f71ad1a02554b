"""From experiments to jobs: order, sharing, states, launches, and what stays the same wherever it is planned."""

import json
from pathlib import Path

import pytest

from harness.common.errors import UnfitError, UsageError
from harness.config.compose import Config, compose
from harness.jobdir.paths import JobDir
from harness.plan import plan
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Plan, launches

TABLE_1 = "ablation_ensemble"
TWO_CELLS = '''"""Own."""
from harness.plan.cell import Cell, Evaluate, Train
TITLE, REPORT = "Own", "comparison"
def cells(config):
    a = Train(config, "decoder_a")
    first = Evaluate((a,))
    return [Cell("stage1", "Stage 1", Evaluate((a,), prior=first)), Cell("stage0", "Stage 0", first)]
'''


def planned(root: Path, *names: str, seeds: int = 1, preset: str = "demo", overrides: tuple[str, ...] = ()) -> Plan:
    return plan.make(names or [TABLE_1], compose(preset, overrides), root, seeds)


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(TWO_CELLS)
    return str(path)


def finish(full_plan: Plan, job: Job, status: str = "finished") -> None:
    full_plan.directory(job).mkdir(parents=True, exist_ok=True)
    (full_plan.directory(job) / "outcome.json").write_text(json.dumps({"status": status}))


def test_table_1_is_three_trainings_and_four_evaluations(tmp_path: Path) -> None:
    full_plan = planned(tmp_path)
    assert [job.name for job in full_plan.jobs] == [
        *(f"train {name} seed 0" for name in ("upernet", "decoder_a", "decoder_b")),
        *(f"evaluate {name} seed 0" for name in ("upernet", "decoder_a", "decoder_b", "decoder_a + decoder_b")),
    ]


def test_every_job_follows_what_it_needs(tmp_path: Path, own: str) -> None:
    jobs = planned(tmp_path, own, TABLE_1, seeds=3).jobs
    place = {job: index for index, job in enumerate(jobs)}
    assert len(place) == len(jobs)
    for job in jobs:
        assert all(place[needed] < place[job] for needed in job.inputs)
        if isinstance(job, Evaluate) and job.prior is not None:
            assert place[job.prior] < place[job]


def test_experiments_share_their_jobs(tmp_path: Path, own: str) -> None:
    alone, both = planned(tmp_path), planned(tmp_path, TABLE_1, own)
    new = [job for job in both.jobs if job not in alone.jobs]
    assert [job.name for job in new] == ["evaluate decoder_a stage 1 seed 0"]
    assert [job.name for job in planned(tmp_path, own).jobs] == [
        *("train decoder_a seed 0", "evaluate decoder_a seed 0", "evaluate decoder_a stage 1 seed 0")
    ]


def test_an_experiment_named_twice_is_planned_once(tmp_path: Path) -> None:
    assert len(planned(tmp_path, TABLE_1, TABLE_1).experiments) == 1


def test_seeds_count_from_the_first_on(tmp_path: Path) -> None:
    full_plan = planned(tmp_path, seeds=3, overrides=("seed=5",))
    assert [seed for seed, _ in full_plan.experiments[0].cells] == [5] * 4 + [6] * 4 + [7] * 4
    assert len(full_plan.jobs) == 3 * 7
    assert {job.config["seed"] for job in full_plan.jobs} == {5, 6, 7}
    one = planned(tmp_path, overrides=("seed=6",))
    assert set(one.jobs) < set(full_plan.jobs)


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seed_is_refused(tmp_path: Path, seeds: int) -> None:
    with pytest.raises(UsageError, match=f"--seeds {seeds}"):
        planned(tmp_path, seeds=seeds)


def test_trainings_are_launched_alone_and_evaluations_together(tmp_path: Path) -> None:
    full_plan = planned(tmp_path)
    groups = launches(full_plan.jobs)
    assert [len(group) for group in groups] == [1, 1, 1, 4]
    assert all(isinstance(group[0], Train) for group in groups[:3])
    assert [job for group in groups for job in group] == full_plan.jobs
    assert launches([]) == []


def test_evaluations_on_other_frames_are_launched_apart(tmp_path: Path) -> None:
    config = compose("demo")
    a = Train(config, "decoder_a")
    wide = Train(compose("demo", ["evaluate.window=96"]), "decoder_a")
    jobs: list[Job] = [Evaluate((a,)), Evaluate((a,), split="test"), Evaluate((wide,)), Evaluate((a,), flip=True)]
    assert [[jobs.index(job) for job in group] for group in launches(jobs)] == [[0, 3], [1], [2]]


def test_states(tmp_path: Path) -> None:
    full_plan = planned(tmp_path)
    train, *_, evaluate = full_plan.jobs
    assert {full_plan.state(job) for job in full_plan.jobs} == {"missing"}
    (full_plan.directory(train) / "checkpoints").mkdir(parents=True)
    assert full_plan.state(train) == "missing"
    (full_plan.directory(train) / "checkpoints" / "step-000000002.pt").touch()
    (full_plan.directory(evaluate) / "videos").mkdir(parents=True)
    (full_plan.directory(evaluate) / "videos" / "val_0000.npz").touch()
    assert full_plan.state(train) == full_plan.state(evaluate) == "resumable"
    for status in ("failed", "preempted", "cancelled", "lost"):
        finish(full_plan, train, status)
        assert full_plan.state(train) == "resumable"
        finish(full_plan, full_plan.jobs[1], status)
        assert full_plan.state(full_plan.jobs[1]) == "missing"
    finish(full_plan, train)
    assert full_plan.state(train) == "done"
    assert planned(tmp_path).state(train) == "done"
    assert planned(tmp_path, overrides=("train.epochs=11",)).jobs[0] != train


def test_the_papers_plan_needs_no_data(tmp_path: Path) -> None:
    full_plan = planned(tmp_path / "none", preset="paper")
    assert full_plan.config.iterations() == 42_000
    assert full_plan.jobs[0].spec().iterations == 42_000
    assert plan.setting(full_plan.config)["iterations"] == 42_000
    assert full_plan.config.content.missing
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("overrides", "iterations"),
    [
        ((), 10 * 32 * 4 // 8),
        (("train.batch=128",), 10),
        (("train.batch=256",), 10),
        (("train.frames_per_video=3",), 120),
    ],
)
def test_iterations_are_counted_by_whole_batches(tmp_path: Path, overrides: tuple[str, ...], iterations: int) -> None:
    assert planned(tmp_path, overrides=overrides).config.iterations() == iterations


def test_a_plans_digest_stays_when_root_and_data_move(tmp_path: Path) -> None:
    digests: set[str] = set()
    for name in ("here", "there"):
        data = tmp_path / name / "vspw"
        data.mkdir(parents=True)
        (data / "train.txt").write_text("a\nb\nc\n")
        (data / "val.txt").write_text("d\n")
        overrides = ("data.name=vspw", f"data.vspw.root={data}", f"train.workers={len(digests)}")
        digests.add(planned(tmp_path / name / "runs", overrides=overrides).experiments[0].digest)
    assert len(digests) == 1
    assert planned(tmp_path).experiments[0].digest not in digests
    assert planned(tmp_path).experiments[0].digest != planned(tmp_path, seeds=2).experiments[0].digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('TITLE = "T"\nREPORT = "comparison"\n', "cells is missing"),
        ('REPORT = "comparison"\ndef cells(config): return []\n', "TITLE is missing"),
        ('TITLE = "T"\nREPORT = "comparisn"\ndef cells(config): return []\n', "did you mean 'comparison'"),
        ("import no_such_module\n", "cannot be imported"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        planned(tmp_path, str(tmp_path / "own.py"))


@pytest.mark.parametrize(
    ("name", "said"), [("ablation_ensembel", "did you mean 'ablation_ensemble'"), ("no.py", "no such")]
)
def test_an_unknown_experiment_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned(tmp_path, name)


def test_the_setting_says_whether_weights_were_loaded(tmp_path: Path) -> None:
    def pretrained(*overrides: str) -> bool:
        config: Config = planned(tmp_path, overrides=overrides).config
        return bool(plan.setting(config)["pretrained"])

    assert not pretrained()
    assert pretrained("encoder.beit.pretrained=true")
    assert pretrained("encoder.beit.weights=file.pt")
    assert not pretrained("encoder.timm_pyramid.weights=file.pt")


OWN = """'''Mine.'''
from harness.plan.cell import Cell, Evaluate, Train
TITLE, REPORT = "Mine", "comparison"

def cells(config):
    CELLS
"""


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("mine.py", "return []", "has no row"),
        ("mine.py", "return config.nothing", r"mine\.py:6: AttributeError"),
        ("ablation_ensemble.py", "return []", "the name 'ablation_ensemble' is taken by"),
    ],
)
def test_an_experiment_of_ones_own_is_blamed_in_a_line(tmp_path: Path, name: str, body: str, said: str) -> None:
    (tmp_path / name).write_text(OWN.replace("CELLS", body))
    with pytest.raises(UsageError, match=said) as caught:
        plan.make([str(tmp_path / name)], compose("demo"), tmp_path)
    assert "\n" not in str(caught.value)


def test_two_experiments_of_one_name_would_share_a_report(tmp_path: Path) -> None:
    body = OWN.replace("CELLS", 'return [Cell("u", "U", Evaluate((Train(config, "upernet"),)))]')
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(body)
    with pytest.raises(UsageError, match="two experiments are called 'own'"):
        plan.make([str(tmp_path / folder / "own.py") for folder in ("one", "two")], compose("demo"), tmp_path)


def test_a_damaged_file_of_a_job_is_named(tmp_path: Path) -> None:
    for text in ("", "{", "[1]"):
        (tmp_path / "outcome.json").write_text(text)
        with pytest.raises(UnfitError, match=r"outcome\.json: is damaged"):
            plan.state(JobDir(tmp_path))


def test_a_row_over_none_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(TWO_CELLS.replace('"Stage 0", first)', '"Stage 0", first, over="stage_1")'))
    with pytest.raises(
        UsageError, match=r"the row 'stage0' is over 'stage_1', which is no row \(did you mean 'stage1'\?"
    ):
        planned(tmp_path, str(path))
