import pytest
import torch

from harness.engine import checkpoint

CPU = torch.device("cpu")


def save(folder, *steps):
    for step in steps:
        checkpoint.save(folder, step, {"value": torch.tensor(step), "nested": {"lr": 0.5, "betas": (0.9, 0.999)}})


def test_last_two_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000002.pt",
        "step-000000002.sha256",
        "step-000000003.pt",
        "step-000000003.sha256",
    ]


def test_round_trip(tmp_path):
    save(tmp_path, 7)
    assert checkpoint.latest(tmp_path, print) == 7
    state = checkpoint.load(tmp_path, 7, CPU)
    assert state == {"value": torch.tensor(7), "nested": {"lr": 0.5, "betas": (0.9, 0.999)}}


@pytest.mark.parametrize("damage", ["flip", "truncate", "no checksum"])
def test_damaged_checkpoint_falls_back_and_says_so(tmp_path, damage):
    save(tmp_path, 5, 10)
    path = checkpoint.path_of(tmp_path, 10)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:100])
    else:
        path.with_suffix(".sha256").unlink()
    said = []
    assert checkpoint.latest(tmp_path, said.append) == 5
    assert len(said) == 1
    assert "step-000000010.pt" in said[0]


def test_damaged_checkpoints_crowd_out_no_whole_one(tmp_path):
    save(tmp_path, 20, 30)
    for step in (20, 30):
        checkpoint.path_of(tmp_path, step).write_bytes(b"torn")
    assert checkpoint.latest(tmp_path, print) is None
    save(tmp_path, 10, 11)
    assert checkpoint.latest(tmp_path, print) == 11
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-000000010.pt", "step-000000011.pt"]


def test_write_that_was_cut_off_is_not_a_checkpoint(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "step-000000010.pt.tmp").write_bytes(b"half")
    (tmp_path / "step-000000010.sha256").write_text("0" * 64)
    assert checkpoint.latest(tmp_path, print) == 5


def test_nothing_there(tmp_path):
    assert checkpoint.latest(tmp_path / "absent", print) is None


def test_clear_leaves_nothing(tmp_path):
    save(tmp_path, 1, 2)
    checkpoint.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
