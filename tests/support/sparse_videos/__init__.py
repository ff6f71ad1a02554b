"""Plug-ins of tests: the folder and the data that a job needs to read sparse labels."""

from pathlib import Path
from typing import Any

from harness.config.compose import DataSpec

FOLDER = str(Path(__file__).resolve().parent)
BARE = ("train_0001", "train_0003", "val_0001")


def data(**changes: Any) -> DataSpec:
    """Videos of ten frames with two labelled, three videos without."""
    options = {"pattern": "..x..", "bare": BARE, "masks": "labelled", "classes": 4, "train_videos": 6, "val_videos": 3}
    size = {"test_videos": 1, "frames": 10, "height": 32, "width": 48, "objects": 2}
    return DataSpec("sparse", {**options, **size, **changes})
