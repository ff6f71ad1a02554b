"""The command line as a person uses it, at the smallest size there is, and the store that it fills."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TINY = (
    "data.synthetic.train_videos=4",
    "data.synthetic.val_videos=3",
    "data.synthetic.frames=2",
    "train.epochs=1",
    "train.batch=4",
    "train.frames_per_video=2",
    "train.checkpoint_every=1",
)


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1"}


def harness(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *words],
        cwd=folder,
        env=environment() | env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def tiny_run(folder: Path, *words: str, command: Callable[..., subprocess.CompletedProcess[str]] = harness) -> dict:
    done = command(folder, "run", "ablation_ensemble", *TINY, *words, "--json")
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr}


def client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def all_runs(folder: Path, clause: str = "") -> list:
    store = client(folder)
    return list(store.search_runs([e.experiment_id for e in store.search_experiments()], clause))
