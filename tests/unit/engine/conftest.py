from pathlib import Path

import pytest
import tiny_jobs
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A root with two trained members: 'a' * 16 is Decoder A, 'b' * 16 is Decoder B."""
    root = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    tiny_jobs.train_now(tiny_jobs.training(root, "a" * 16, "decoder_a"))
    tiny_jobs.train_now(tiny_jobs.training(root, "b" * 16, "decoder_b"))
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """The trained members, linked into a root of the test's own."""
    (tmp_path / "jobs").mkdir()
    for member in ("a" * 16, "b" * 16):
        (tmp_path / "jobs" / member).symlink_to(trained / "jobs" / member)
    return tmp_path
