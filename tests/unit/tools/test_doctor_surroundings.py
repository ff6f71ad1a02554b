"""The doctor on what surrounds a run: shared memory, open files, and an output directory of a group."""

import os
import resource
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness.config.compose import compose
from harness.tools.doctor import Finding, _devices, _limits, _sharing
from harness.tools.doctor._facts import Machine, Package

PAPER = compose("paper")


def texts(findings: Iterable[Finding]) -> list[tuple[bool | None, str, str]]:
    return [(finding.fit, finding.text, finding.remedy) for finding in findings]


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage: Any = shutil._ntuple_diskusage  # type: ignore[attr-defined]
    monkeypatch.setattr(_limits.shutil, "disk_usage", lambda path: usage(free, 0, free))


def test_shared_memory_as_containers_have_it_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room(monkeypatch, 64 * 2**20)
    ((fit, text, remedy),) = texts(_limits.examine(PAPER, tmp_path))
    assert fit is False
    assert f"{tmp_path} has 64.0 MiB free" in text
    assert "--shm-size" in remedy
    assert not texts(_limits.examine(compose("paper", ["train.workers=0"]), tmp_path))
    room(monkeypatch, 8 * 2**30)
    assert not texts(_limits.examine(PAPER, tmp_path))


def test_few_open_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room(monkeypatch, 8 * 2**30)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (128, 4096))
    ((fit, text, remedy),) = texts(_limits.examine(PAPER, tmp_path))
    assert fit is False
    assert "at most 128 files may be open" in text
    assert "ulimit -n 4096" in remedy


@pytest.mark.parametrize("visible", ["-1", "", " "])
def test_gpus_that_a_variable_hides_are_named_with_it(visible: str) -> None:
    listed = [_devices.Gpu("NVIDIA A100", "580.82.07", 40960)] * 2
    seen = Machine(packages={"torch": Package("2.9", "13.0")})
    ((fit, text, remedy), *_) = texts(_devices.gpus(listed, seen, visible))
    assert fit is None
    assert "CUDA_VISIBLE_DEVICES=" in text
    assert "hides 2 GPUs of 2" in text
    assert remedy == "unset it to train on the GPU"


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """An output directory as docs/CLUSTER.md sets it up, with a job in it."""
    root = tmp_path / "runs"
    root.mkdir()
    root.chmod(0o2775)
    before = os.umask(0o002)
    (root / "jobs").mkdir()
    (root / "jobs" / "weights.safetensors").write_text("")
    yield root
    os.umask(before)


def test_a_groups_output_directory(group: Path) -> None:
    ((fit, text, _),) = texts(_sharing.examine(group))
    assert fit is True
    assert "every member of the group" in text


def test_a_file_closed_to_the_group_is_named(group: Path) -> None:
    (group / "jobs" / "weights.safetensors").chmod(0o600)
    ((fit, text, remedy),) = texts(_sharing.examine(group))
    assert fit is False
    assert f"1 file that the group {_sharing.name(os.getgid())} cannot read and write: {group}/jobs/weights" in text
    assert "chmod -R g+rwX" in remedy


def test_a_umask_that_closes_to_the_group(group: Path) -> None:
    os.umask(0o022)
    ((fit, text, remedy),) = texts(_sharing.examine(group))
    assert fit is False
    assert "umask 022" in text
    assert remedy.startswith("umask 002")


def test_a_folder_whose_files_do_not_become_the_groups(group: Path) -> None:
    group.chmod(0o755)
    if os.getuid() == 0:
        os.chown(group / "jobs", 54321, -1)  # somebody else has worked in it
        ((fit, text, remedy), *_) = texts(_sharing.examine(group))
        assert fit is False
        assert "do not belong to the group" in text
        assert remedy.startswith("chmod g+rwxs")
        os.chown(group / "jobs", os.getuid(), -1)
    assert not texts(_sharing.examine(group)), "it is one person's"


def test_nothing_is_said_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert not texts(_sharing.examine(tmp_path / "runs"))
