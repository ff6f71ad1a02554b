"""Plans that were run, kept beside their results."""

from pathlib import Path

from one_model import made

from harness.plan import saved_plans


def test_a_kept_plan_is_the_same_plan(tmp_path: Path) -> None:
    planned = made(tmp_path, "train.lr=0.0003", "seed=3")
    (digest,) = saved_plans.digests(tmp_path)
    restored = saved_plans.restore(tmp_path, digest)
    assert restored.jobs == planned.jobs
    assert restored.digest == planned.experiments[0].digest
    assert [job.spec() for job in restored.jobs] == [job.spec() for job in planned.jobs]
