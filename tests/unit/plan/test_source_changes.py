import shutil
from pathlib import Path

import equal_sources
import pytest

from harness.common.atomic_files import read_json, write_json
from harness.common.errors import UsageError
from harness.config import compose
from harness.plan import explain, plan, source_changes
from harness.plan.plan import Plan
from harness.plan.spec import to_json


@pytest.fixture
def full_plan(tmp_path: Path) -> Plan:
    """A plan whose jobs all look finished."""
    full_plan = plan.make(["ablation_ensemble"], compose.compose("demo"), tmp_path)
    for job in full_plan.jobs:
        directory = full_plan.directory(job)
        directory.mkdir(parents=True)
        write_json(directory / "job.yaml", to_json(job.spec()))
        write_json(directory / "how.json", {"sources": source_changes.digests(job)})
        write_json(directory / "outcome.json", {"status": "finished"})
    return full_plan


def test_sources_are_the_engine_the_plug_ins_and_what_they_import(full_plan: Plan):
    upernet, _, decoder_b = full_plan.jobs[:3]
    found = source_changes.digests(upernet)
    for file in ("harness/engine/train.py", "models/decoders/upernet.py", "models/encoders/beit.py"):
        assert file in found
    assert "harness/data/stream.py" in found  # imported by the engine
    assert "models/layers/pyramid.py" in found  # imported by the decoder
    assert "models/decoders/decoder_a.py" not in found  # another's plug-in
    assert not any(file.startswith(("harness/tracking", "harness/cli", "harness/plan")) for file in found)
    assert "models/layers/temporal_attention.py" in source_changes.digests(decoder_b)


def test_a_changed_source_shows_only_on_the_jobs_that_use_it(full_plan: Plan):
    assert all(source_changes.changed(full_plan, job) == [] for job in full_plan.jobs)
    file = "models/decoders/decoder_b.py"
    for job in full_plan.jobs:
        path = full_plan.directory(job) / "how.json"
        ran = read_json(path)["sources"]
        write_json(path, {"sources": {**ran, **({file: "before"} if file in ran else {})}})
    marked = [job.name for job in full_plan.jobs if source_changes.changed(full_plan, job) == [file]]
    assert [name.split(" seed")[0] for name in marked] == [
        "train decoder_b",
        "evaluate decoder_b",
        "evaluate decoder_a + decoder_b",
    ]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder with helpers beside it, a folder above, in a package on Python's path, and a second hand away."""
    outside = tmp_path / "outside"
    files = {
        "mine/decoders/mine.py": "import json, numpy, _loose\nfrom models import contract\nfrom . import _beside\n"
        "from ..above import x\nfrom packed.deep.inner import y\n",
        "mine/decoders/_beside.py": "def f():\n    from ._second import z\n",
        "mine/decoders/_second.py": "z = 1\n",
        "mine/decoders/_unused.py": "",
        "mine/above.py": "x = 1\n",
        "outside/packed/__init__.py": "",
        "outside/packed/deep/__init__.py": "from .more import *\n",
        "outside/packed/deep/inner.py": "y = 1\n",
        "outside/packed/deep/more.py": "",
        "outside/_loose.py": "print 'of another Python'\n",
        "outside/site-packages/installed.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(outside)
    return tmp_path


def test_sources_follow_what_is_neither_installed_nor_pythons(mine: Path):
    entry = mine / "mine" / "decoders" / "mine.py"
    followed = source_changes.closure(entry)
    inside = {path.relative_to(mine).as_posix() for path in followed if path.is_relative_to(mine)}
    beside = {f"mine/decoders/{name}.py" for name in ("mine", "_beside", "_second")}
    packed = {f"outside/packed/{name}.py" for name in ("__init__", "deep/__init__", "deep/inner", "deep/more")}
    assert inside == {*beside, *packed, "mine/above.py", "outside/_loose.py"}
    assert {source_changes.label(path) for path in followed if not path.is_relative_to(mine)} == {"models/contract.py"}


def test_files_of_one_name_are_told_apart(full_plan: Plan, monkeypatch: pytest.MonkeyPatch):
    job = full_plan.jobs[0]
    ran = {"/a/decoders/_x.py": "1", "/a/encoders/_x.py": "2"}
    write_json(full_plan.directory(job) / "how.json", {"sources": ran})
    for now, names in (
        ({"/moved/decoders/_x.py": "1", "/moved/encoders/_x.py": "2"}, []),
        ({"/a/decoders/_x.py": "3", "/a/encoders/_x.py": "2"}, ["_x.py"]),
        ({"/a/decoders/_x.py": "1", "/a/encoders/_x.py": "3"}, ["_x.py"]),
    ):
        monkeypatch.setattr(source_changes, "digests", lambda job, now=now: now)
        assert source_changes.changed(full_plan, job) == names


def test_accepted_changes_are_not_marked(full_plan: Plan):
    job = full_plan.jobs[0]
    write_json(full_plan.directory(job) / "how.json", {"sources": {"models/decoders/upernet.py": "before"}})
    assert source_changes.changed(full_plan, job)
    write_json(full_plan.directory(job) / "accepted.json", source_changes.digests(job))
    assert source_changes.changed(full_plan, job) == []


def test_why_names_the_nearest_job_and_the_keys_that_differ(full_plan: Plan):
    other = compose.compose("demo", ["decoder.decoder_a.momentum=0.3"])
    asked = plan.make(["ablation_ensemble"], other, full_plan.root)
    text = explain.explain(asked, "decoder_a")
    assert "decoder.options.momentum: 0.3 here, 0.9 there" in text
    assert "waiting for train decoder_a seed 0" in text
    assert "done" in explain.explain(asked, "upernet")
    with pytest.raises(UsageError, match="decoder_ab"):
        explain.explain(asked, "decoder_c")


def test_why_without_any_finished_job(full_plan: Plan):
    shutil.rmtree(full_plan.root / "jobs")
    assert "no similar job" in explain.explain(full_plan, "upernet")


def test_a_job_of_01_is_unchanged_where_the_table_says_so_and_nowhere_else(full_plan: Plan):
    equal, job = read_json(source_changes.EQUAL), full_plan.jobs[0]
    path, ran = full_plan.directory(job) / "how.json", {name: digests[0] for name, digests in equal["before"].items()}
    write_json(path, {"sources": ran})
    assert source_changes.changed(full_plan, job) == []
    write_json(path, {"sources": {**ran, "harness/engine/train.py": "anotherdigest"}})
    assert source_changes.changed(full_plan, job) == ["harness/engine/train.py"]
    mine = {**ran, "/theirs/decoders/mine.py": "digest"}
    write_json(path, {"sources": mine})
    assert source_changes.changed(full_plan, job) == ["mine.py"]


def test_a_source_that_has_changed_since_the_table_shows_on_jobs_of_01(full_plan: Plan, tmp_path: Path, monkeypatch):
    equal, job = read_json(source_changes.EQUAL), full_plan.jobs[0]
    ran = {name: digests[-1] for name, digests in equal["before"].items()}
    write_json(full_plan.directory(job) / "how.json", {"sources": ran})
    write_json(tmp_path / "equal.json", {**equal, "now": {**equal["now"], "models/contract.py": "earlier"}})
    monkeypatch.setattr(source_changes, "EQUAL", tmp_path / "equal.json")
    assert source_changes.changed(full_plan, job) == ["models/contract.py"]


def test_the_table_of_equal_sources_is_of_today():
    advice = "if no number has moved: python tests/tools/equal_sources.py; else raise the VERSION first"
    assert read_json(source_changes.EQUAL)["now"] == equal_sources.current(), advice
