"""GPUs are counted by nvidia-smi, and CUDA_VISIBLE_DEVICES has the last word."""

from pathlib import Path

import pytest

from harness.common import machine


@pytest.mark.parametrize(("visible", "found"), [(None, 3), ("7,3", 2), ("", 0), ("0", 1), ("-1", 0), ("0,-1,2", 1)])
def test_gpus(visible: str | None, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "GPU $i: H100 (UUID: x)"; done\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == found
    named = f"CUDA_VISIBLE_DEVICES={visible or '(empty)'} hides the 3 GPU(s) here: this runs on the CPU; unset it"
    assert machine.hidden_gpus() == (None if found else named)


def test_no_tool_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert machine.gpus() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert machine.hidden_gpus() is None


@pytest.mark.parametrize(
    ("ours", "openmp", "threads"),
    [("2", "4", "2"), (None, "4", "4"), (None, "4,2", "4"), (None, "", None), (None, "many", None), (None, None, None)],
)
def test_the_threads_of_a_rank_are_ours_before_openmps(monkeypatch, ours, openmp, threads):
    for name, value in (("HARNESS_THREADS", ours), ("OMP_NUM_THREADS", openmp)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert machine.threads() == threads
