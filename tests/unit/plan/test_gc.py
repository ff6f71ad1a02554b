import json
import os

import pytest

from harness.cli import main
from harness.common.errors import UnfitError
from harness.config.compose import compose
from harness.jobdir import lease
from harness.jobdir.lease import Claim
from harness.plan import gc, plan, saved_plans

SMALL = ("data.synthetic.train_videos=2", "data.synthetic.val_videos=2")


@pytest.fixture
def full_plan(tmp_path):
    return plan.make(["ablation_ensemble"], compose("demo", SMALL), tmp_path)


def job(folder, **outcome):
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text("{}")
    (folder / "outcome.json").write_text(json.dumps(outcome))
    (folder / "weights.safetensors").write_bytes(b"x" * 1000)
    return folder


def test_what_a_plan_names_stays_and_the_rest_is_listed(full_plan):
    saved_plans.keep(full_plan, ())
    kept = job(full_plan.directory(full_plan.jobs[0]), status="finished")
    lost = job(full_plan.root / "jobs" / ("f" * 16), status="finished")
    (full_plan.root / "jobs" / "notes").mkdir()  # not ours
    (item,) = gc.garbage(full_plan.root)
    assert item.path == lost
    assert item.bytes > 1000
    assert gc.delete(full_plan.root, [item]) == item.bytes
    assert not lost.exists()
    assert kept.exists()


def test_a_job_at_work_is_never_listed_nor_deleted(full_plan):
    saved_plans.keep(full_plan, ())
    folder = job(full_plan.root / "jobs" / ("f" * 16))
    (item,) = gc.garbage(full_plan.root)
    got = Claim(folder).take()
    assert gc.garbage(full_plan.root) == []
    assert gc.delete(full_plan.root, [item]) == 0  # begun after it was listed
    got.renew(released=True)
    assert lease.current_holder(folder) is None
    assert [one.path for one in gc.garbage(full_plan.root)] == [folder]


def test_a_holder_elsewhere_that_died_long_ago_keeps_nothing(full_plan, monkeypatch):
    saved_plans.keep(full_plan, ())
    folder = job(full_plan.root / "jobs" / ("f" * 16))
    Claim(folder).take()
    monkeypatch.setattr(lease, "machine", lambda: "another")
    assert gc.garbage(full_plan.root) == []
    os.utime(lease.path_of(folder, 1), (0, 0))
    assert not gc.at_work(full_plan.root / "jobs")
    assert gc.delete(full_plan.root, gc.garbage(full_plan.root)) > 0
    assert not folder.exists()


def test_leftovers_of_a_finished_job_are_listed(full_plan):
    saved_plans.keep(full_plan, ())
    folder = job(full_plan.directory(full_plan.jobs[0]), status="finished")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-000000004.pt").write_bytes(b"x" * 10)
    (folder / ".weights.safetensors.host.1.tmp").write_bytes(b"x" * 5)
    (full_plan.root / "replaced" / "abc").mkdir(parents=True)
    found = {one.path.name: one.why for one in gc.garbage(full_plan.root)}
    assert found.keys() == {"checkpoints", ".weights.safetensors.host.1.tmp", "abc"}
    items = gc.garbage(full_plan.root)
    got = Claim(folder).take()
    assert gc.delete(full_plan.root, items) == 0  # begun after they were listed; `abc` holds no byte
    got.renew(released=True)
    assert gc.delete(full_plan.root, items) == 15
    assert sorted(path.name for path in folder.iterdir()) == [
        *("attempts", "job.yaml", "outcome.json", "weights.safetensors")
    ]
    assert gc.garbage(full_plan.root) == []


def test_a_rehearsal_is_one_item_and_left_alone_while_at_work(tmp_path):
    root = tmp_path / "jobs" / "runs"  # a folder of people's own that has a name of ours
    folder = job(root / "rehearsal" / "jobs" / ("f" * 16))
    (root / "rehearsal" / "plans").mkdir()
    got = Claim(folder).take()
    assert gc.garbage(root) == []
    got.renew(released=True)
    assert gc.garbage(root, rehearsing=True) == []
    (item,) = gc.garbage(root)
    assert item.path == root / "rehearsal"
    got = Claim(folder).take()
    assert gc.delete(root, [item]) == 0  # begun after it was listed
    got.renew(released=True)
    assert gc.delete(root, [item]) > 0
    assert not item.path.exists()


def test_nothing_to_delete_is_said(tmp_path, capsys):
    assert main(["gc", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "nothing to delete\n"


def test_a_root_whose_plans_are_gone_is_left_alone(tmp_path):
    job(tmp_path / "jobs" / "a", status="finished")
    with pytest.raises(UnfitError, match="has jobs but no plans/"):
        gc.garbage(tmp_path)


def test_what_a_searchs_trial_made_is_no_garbage(tmp_path):
    job(tmp_path / "jobs" / "a", status="finished")
    gc.refer(tmp_path, "other", ["b"])
    assert [item.path.name for item in gc.garbage(tmp_path)] == ["a"]
    gc.refer(tmp_path, "trial", ["a"])
    assert gc.garbage(tmp_path) == []
