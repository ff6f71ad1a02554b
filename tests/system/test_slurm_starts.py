"""How a Slurm job starts: with a signal before Python is up, in a container's stand-in, without our environment."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import one_model
import pytest
from slurm_cluster import Cluster, cluster
from slurm_runs import WAIT, environment, job, log_of, submitted

from harness.common.atomic_files import read_json

pytestmark = pytest.mark.slow

RUN = ("run", one_model.FILE, *one_model.TINY, "--offline", "--launcher", "slurm", "--nproc", "1")

SLOW_START = """
import os, sys, time
if "submitit.core._submit" in sys.orig_argv and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    open({marker!r}, "a").write("up")
    time.sleep(15)
"""
CONTAINER = """#!/bin/bash
echo "${SLURM_NODEID:-none} $STANDIN $*" >> %s
export IN_CONTAINER=1
exec "$@"
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster(2) as made:
        yield made


def run(folder: Path, slurm: Cluster, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "harness.cli", *words]
    env = environment(slurm.environment | variables)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=WAIT, check=False)


def statuses(folder: Path) -> dict[str, str]:
    return {kind: read_json(job(folder, kind) / "outcome.json")["status"] for kind in ("train", "evaluate")}


@pytest.mark.timeout(2 * WAIT)
def test_a_signal_before_python_is_up_requeues(slurm: Cluster, tmp_path: Path) -> None:
    marker, site = tmp_path / "marker", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SLOW_START.format(marker=str(marker)))
    left = run(tmp_path, slurm, *RUN, "--detach", PYTHONPATH=str(site))
    assert left.returncode == 0, left.stderr
    number = submitted(tmp_path)["train"]
    deadline = time.monotonic() + WAIT
    while not marker.exists():
        assert time.monotonic() < deadline, log_of(tmp_path, "train") + slurm.said()
        time.sleep(0.1)
    slurm.run("scancel", "--signal=USR2", number)  # as before a time limit
    slurm.wait_for_requeue(number)
    assert slurm.wait(submitted(tmp_path)["evaluate"], "COMPLETED", "FAILED") == "COMPLETED", log_of(tmp_path, "train")
    assert statuses(tmp_path) == {"train": "finished", "evaluate": "finished"}
    assert read_json(tmp_path / "runs" / "slurm" / number / "starts.json")["starts"] == 2


@pytest.mark.timeout(2 * WAIT)
def test_a_containers_stand_in_is_around_every_python_the_inner_sruns_too(slurm: Cluster, tmp_path: Path) -> None:
    starts, wrapper = tmp_path / "starts", tmp_path / "container"
    wrapper.write_text(CONTAINER % starts)
    wrapper.chmod(0o755)
    python = f"python={wrapper} {sys.executable}"
    words = [*RUN, "--nodes", "2", "--slurm", python, "--slurm", "srun_args=--export=ALL,STANDIN=yes --input=none"]
    done = run(tmp_path, slurm, *words, "--slurm", f"teardown=touch {tmp_path}/torn-down")
    assert done.returncode == 0, done.stderr + log_of(tmp_path, "train")
    assert statuses(tmp_path) == {"train": "finished", "evaluate": "finished"}
    lines = starts.read_text().splitlines()
    assert all(line.split()[1:3] == ["yes", sys.executable] for line in lines)
    outer = [line for line in lines if "submitit.core._submit" in line]
    inner = sorted(line.split()[0] for line in lines if "_agent" in line)
    assert len(outer) == 2
    assert inner == ["0", "0", "1", "1"], "a torchrun on each node for each launch"
    assert (tmp_path / "torn-down").exists()


@pytest.mark.timeout(2 * WAIT)
def test_an_environment_that_is_not_exported_is_said_and_done_without(slurm: Cluster, tmp_path: Path) -> None:
    done = run(tmp_path, slurm, *RUN, SBATCH_EXPORT="NONE")
    assert done.returncode == 0, done.stderr + log_of(tmp_path, "train")
    assert "sbatch exports 'NONE': the jobs lack this environment" in done.stderr
    assert statuses(tmp_path) == {"train": "finished", "evaluate": "finished"}
