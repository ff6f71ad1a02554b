import json
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def oracle() -> dict[str, Any]:
    return json.loads((Path(__file__).parents[2] / "data" / "oracle.json").read_text())


@pytest.fixture(autouse=True)
def _seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
