"""job.yaml: what is written is read again, and files of earlier commits are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UnfitError
from harness.config.compose import compose
from harness.plan import plan
from harness.plan.job import TRUTH, Evaluate, Train
from harness.plan.plan import Plan
from harness.plan.spec import EvaluateSpec, LaunchSpec, TrainSpec, from_json, read, read_as, to_json

TRAIN_KEYS = [
    "kind",
    "fingerprint",
    "seed",
    "precision",
    "data",
    "encoder",
    "decoder",
    "train",
    "evaluate",
    "iterations",
    "plugins",
    "identity",
]
EVALUATE_KEYS = [
    "kind",
    "fingerprint",
    "members",
    "prior",
    "stage",
    "scales",
    "flip",
    "split",
    "precision",
    "data",
    "evaluate",
    "plugins",
    "identity",
]


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    return plan.make(["ablation_stages"], compose("demo", ["data.hold_out=0.25"]), tmp_path)


def test_the_keys_are_those_of_every_finished_root(planned: Plan) -> None:
    for job in planned.jobs:
        assert list(to_json(job.spec())) == (TRAIN_KEYS if isinstance(job, Train) else EVALUATE_KEYS)
    (training, *_) = planned.jobs
    assert to_json(training.spec())["data"].keys() == {"name", "config", "hold_out"}
    launch = LaunchSpec(attempt=2, stall=10.0, deterministic=False)
    assert list(to_json(replace(training.spec(), launch=launch)))[-3:] == ["stall", "deterministic", "attempt"]


def test_what_is_written_is_read(planned: Plan, tmp_path: Path) -> None:
    (member, *_), (stage, *_) = ([job for job in planned.jobs if isinstance(job, kind)] for kind in (Train, Evaluate))
    truth = replace(stage, prior=TRUTH, control="permuted_memory", scales=(0.5, 1.0), flip=True)
    for job in (member, *planned.jobs, truth):
        spec = replace(job.spec(), launch=LaunchSpec(attempt=1, stall=0.5, deterministic=True, pause=1, videos=2))
        write_json(tmp_path / "job.yaml", to_json(spec))
        again = read(tmp_path)
        assert json.dumps(to_json(again)) == json.dumps(to_json(spec)) == json.dumps(read_json(tmp_path / "job.yaml"))
        assert replace(again, identity={}) == replace(spec, identity={})


def test_a_key_may_be_absent_where_no_number_depends_on_it(planned: Plan) -> None:
    content = to_json(planned.jobs[0].spec())
    del content["train"]["evaluate_every"], content["train"]["workers"], content["evaluate"]["vc"]
    del content["data"]["hold_out"]
    content["train"]["of_a_later_version"] = 1
    assert isinstance(from_json(content), TrainSpec)
    for section, key in (("train", "lr"), ("evaluate", None), ("seed", None), ("kind", None)):
        damaged = json.loads(json.dumps(content))
        del (damaged[section] if key else damaged)[key or section]
        with pytest.raises(KeyError, match=key or section):
            from_json(damaged)


def test_what_is_no_job_is_unfit(planned: Plan, tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match=r"job\.yaml: cannot be read .*plan the job again"):
        read(tmp_path)
    for text in ("{", "[]", '"train"', "null"):
        (tmp_path / "job.yaml").write_text(text)
        with pytest.raises(UnfitError, match=r"job\.yaml: cannot be read"):
            read(tmp_path)
    (tmp_path / "job.yaml").write_text('{"kind": "rest"}')
    with pytest.raises(UnfitError, match="no job is of the kind 'rest'"):
        read(tmp_path)
    (tmp_path / "job.yaml").write_text("{}")
    with pytest.raises(UnfitError, match=r"job\.yaml: 'kind' is missing; plan the job again"):
        read(tmp_path)
    write_json(tmp_path / "job.yaml", to_json(planned.jobs[0].spec()))
    assert isinstance(read_as(tmp_path, TrainSpec), TrainSpec)
    with pytest.raises(UnfitError, match="not a job of kind evaluate"):
        read_as(tmp_path, EvaluateSpec)
