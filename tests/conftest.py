"""What all tests share: one thread in the subprocesses they start, and no setting of the person who runs them."""

import logging
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("HARNESS_THREADS", "1")
logging.getLogger("harness").setLevel(logging.INFO)  # for caplog


@pytest.fixture(autouse=True)
def _no_outside_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked `long` first: begun last, one of them would keep a worker waiting for the other."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
