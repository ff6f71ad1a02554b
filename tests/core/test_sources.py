import shutil
from pathlib import Path

import pytest

from harness.core import config, plan, record, sources, why
from harness.core.errors import UsageError
from harness.core.plan import Plan


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    """A plan whose jobs all look finished."""
    made = plan.make(["ablation_ensemble"], config.compose("demo"), tmp_path)
    for job in made.jobs:
        directory = made.directory(job)
        directory.mkdir(parents=True)
        record.write_json(directory / "job.yaml", job.spec())
        record.write_json(directory / "how.json", {"sources": sources.digests(job)})
        record.write_json(directory / "outcome.json", {"status": "finished"})
    return made


def test_sources_are_the_engine_the_plug_ins_and_what_they_import(made: Plan):
    upernet, _, decoder_b = made.jobs[:3]
    found = sources.digests(upernet)
    for file in ("harness/engine/train.py", "models/decoders/upernet.py", "models/encoders/beit.py"):
        assert file in found
    assert "harness/datasets/_stream.py" in found  # imported by the engine
    assert "models/layers/pyramid.py" in found  # imported by the decoder
    assert "models/decoders/decoder_a.py" not in found  # another's plug-in
    assert not any(file.startswith(("harness/store", "harness/cli", "harness/core/plan")) for file in found)
    assert "models/layers/temporal_attention.py" in sources.digests(decoder_b)


def test_a_changed_source_shows_only_on_the_jobs_that_use_it(made: Plan):
    assert all(sources.changed(made, job) == [] for job in made.jobs)
    file = "models/decoders/decoder_b.py"
    for job in made.jobs:
        path = made.directory(job) / "how.json"
        ran = plan.read_json(path)["sources"]
        record.write_json(path, {"sources": {**ran, **({file: "before"} if file in ran else {})}})
    marked = [job.name for job in made.jobs if sources.changed(made, job) == [file]]
    assert [name.split(" seed")[0] for name in marked] == [
        "train decoder_b",
        "evaluate decoder_b",
        "evaluate decoder_a + decoder_b",
    ]


def test_accepted_changes_are_not_marked(made: Plan):
    job = made.jobs[0]
    record.write_json(made.directory(job) / "how.json", {"sources": {"models/decoders/upernet.py": "before"}})
    assert sources.changed(made, job)
    record.write_json(made.directory(job) / "accepted.json", sources.digests(job))
    assert sources.changed(made, job) == []


def test_why_names_the_nearest_job_and_the_keys_that_differ(made: Plan):
    other = config.compose("demo", ["decoder.decoder_a.momentum=0.3"])
    asked = plan.make(["ablation_ensemble"], other, made.root)
    text = why.explain(asked, "decoder_a")
    assert "decoder.options.momentum: 0.3 here, 0.9 there" in text
    assert "it waits for train decoder_a seed 0" in text
    assert "done" in why.explain(asked, "upernet")
    with pytest.raises(UsageError, match="decoder_ab"):
        why.explain(asked, "decoder_c")


def test_why_without_any_finished_job(made: Plan):
    shutil.rmtree(made.root / "jobs")
    assert "nothing like it" in why.explain(made, "upernet")
