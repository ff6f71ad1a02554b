"""Compute of jobs: a shared pass is counted once, and figures add up over an output directory."""

from pathlib import Path
from typing import Any

import finished_root
import pytest

from harness.common.atomic_files import read_json, write_json
from harness.plan.job import Evaluate
from harness.report import evidence as gathered
from harness.report import html_report
from harness.results import rows
from harness.results.evidence import Compute, Evidence, compute, device_seconds


def job(seconds: float | None, device: str = "x86_64", **more: Any) -> dict[str, Any]:
    return {"seconds": seconds, "device": device, **more}


def test_a_pass_that_four_evaluations_share_is_counted_once() -> None:
    launch = ["a", "b", "c", "d"]
    passes = [job(3600.0, launch=launch, peak=2 * 2**30) for _ in launch]
    assert device_seconds(passes[0]) == 900.0
    assert compute([job(1800.0, peak=2**30), *passes]) == Compute(1.5, ("x86_64",), 2 * 2**30)
    assert compute([job(None)]) is None


def test_ranks_count_and_the_unit_is_that_of_the_device() -> None:
    gpus = compute([job(1800.0, "NVIDIA H100 80GB HBM3", world=8)])
    assert gpus is not None
    assert (gpus.device_hours, gpus.unit) == (4.0, "GPU-hours")
    for device in ("cpu", "x86_64", "aarch64"):
        assert Compute(1.0, (device,)).unit == "CPU-hours"
    assert Compute(1.0, ("x86_64", "NVIDIA A100")).unit == "device-hours"


def test_two_tables_of_one_command_add_up_to_its_output_directory(tmp_path: Path) -> None:
    """Trainings take 125 s each, a pass 31 s; both tables' evaluations shared it."""
    first = finished_root.make(tmp_path, videos=5)
    second = finished_root.make(tmp_path, videos=5, experiment="ablation_stages")
    evaluations = {j.fingerprint: p for p in (first, second) for j in p.jobs if isinstance(j, Evaluate)}
    for fingerprint, made in evaluations.items():
        path = made.root / "jobs" / fingerprint / "how.json"
        write_json(path, {**read_json(path), "launch": list(evaluations)})
    parts = [gathered.gather(made, made.experiments[0]) for made in (first, second)]
    trainings = {j["fingerprint"] for part in parts for j in part.jobs if j["fingerprint"] not in evaluations}
    assert len(trainings) == 3
    assert parts[0].total_hours == parts[1].total_hours == pytest.approx((3 * 125 + 31) / 3600)
    distinct = {j["fingerprint"]: j for part in parts for j in part.jobs}
    whole = compute(list(distinct.values()))
    assert whole is not None
    assert whole.device_hours == pytest.approx(parts[0].total_hours)
    facts = dict(html_report.facts([], rows.context(first.experiments[0], (), parts[0])))
    assert facts["compute time"] == f"{(3 * 125 + 31 * 4 / len(evaluations)) / 3600:.3g} CPU-hours of the output " + (
        f"directory's {(3 * 125 + 31) / 3600:.3g}"
    )
    assert facts["device"] == "cpu"
    assert Evidence.from_json(parts[0].to_json()).total_hours == parts[0].total_hours
