"""Content by digest: remembered by size and mtime, and reported, not raised, where it is not at hand."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from harness.common.errors import UsageError
from harness.config import input_digests
from harness.config.compose import Config, compose
from harness.data import manifest


def cache_of(root: Path) -> list[Path]:
    return sorted((root / "cache" / "files").glob("*.npz"))


def remember(root: Path, digest: str) -> None:
    """Put another digest into the cache, as only a reader of the cache can give it back."""
    (path,) = cache_of(root)
    with np.load(path) as saved:
        values = dict(saved)
    values["sums"] = np.frombuffer(bytes.fromhex(digest), np.uint8).reshape(1, -1)
    np.savez(path, **values)


def aged(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the file had been left alone for as long as the cache wants."""
    monkeypatch.setattr(manifest, "RACY", -(10**9))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_digest_is_the_files_sha256(weights: Path, root: Path) -> None:
    assert input_digests.file_digest(weights, root) == sha(b"one")
    assert input_digests.file_digest(weights, None) == sha(b"one")


def test_a_known_file_is_not_read_again(weights: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(weights, monkeypatch)
    input_digests.file_digest(weights, root)
    remember(root, "ab" * 32)
    assert input_digests.file_digest(weights, root) == "ab" * 32
    assert input_digests.file_digest(weights, None) == sha(b"one")


def test_a_file_that_was_just_written_is_read_again(weights: Path, root: Path) -> None:
    input_digests.file_digest(weights, root)
    remember(root, "ab" * 32)
    assert input_digests.file_digest(weights, root) == sha(b"one")


def test_a_changed_file_is_noticed_whatever_its_size_and_time_say(
    weights: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(weights, monkeypatch)
    input_digests.file_digest(weights, root)
    before = weights.stat()
    for data in (b"other", b"two", b"six"):
        time.sleep(0.02)  # a tick of the file system's clock
        weights.write_bytes(data)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert input_digests.file_digest(weights, root) == sha(data)


def test_the_same_file_by_another_path_is_known(weights: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    input_digests.file_digest(weights, root)
    monkeypatch.chdir(weights.parent)
    input_digests.file_digest(Path(weights.name), root)
    assert len(cache_of(root)) == 1


def test_planning_makes_no_root(weights: Path, tmp_path: Path) -> None:
    input_digests.file_digest(weights, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"PK\x03\x04", b"\x00" * 200])
def test_a_damaged_cache_is_made_anew(weights: Path, root: Path, data: bytes) -> None:
    input_digests.file_digest(weights, root)
    (path,) = cache_of(root)
    path.write_bytes(data)
    assert input_digests.file_digest(weights, root) == sha(b"one")
    assert path.stat().st_size > 200


def test_a_cache_that_cannot_be_written_is_done_without(weights: Path, root: Path) -> None:
    (root / "cache").write_text("a file where the folder should be")
    assert input_digests.file_digest(weights, root) == sha(b"one")


def test_a_file_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        input_digests.file_digest(tmp_path / "none", None)


def resolved(*overrides: str, preset: str = "demo") -> Config:
    return input_digests.resolve(compose(preset, overrides), None)


def test_made_data_misses_nothing() -> None:
    found = resolved("data.synthetic.val_videos=5", "data.synthetic.classes=6").content
    assert found.missing == ()
    assert found.absent == {}
    assert found.splits == {"train": None, "val": None, "test": None}
    assert (found.videos["val"], found.classes, found.files) == (5, 6, {})


def test_a_data_set_is_whole_without_a_test_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(f"{split}_0\n")
    found = resolved("data.name=vspw", f"data.vspw.root={tmp_path}").content
    assert found.missing == ()
    assert found.absent["test"].startswith("the data set has no test split (")
    (tmp_path / "test.txt").write_text("test_0\n")
    known = resolved("data.name=vspw", f"data.vspw.root={tmp_path}").content
    assert known.absent == {}
    assert known.splits["test"] is not None


def test_missing_data_is_reported_once_and_planned_as_published() -> None:
    found = resolved(preset="paper").content
    assert len(found.missing) == 1
    assert "data.vspw.root=DIR" in found.missing[0]
    assert (found.videos, found.classes) == ({"train": 2806, "val": 343}, 124)


@pytest.mark.parametrize("kind", ["absent", "folder"])
def test_missing_weights_are_reported_by_their_key(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    if kind == "folder":
        path.mkdir()
    found = resolved(f"encoder.beit.weights={path}").content
    assert found.files == {"encoder.beit.weights": None}
    assert len(found.missing) == 1
    assert found.missing[0].startswith(f"encoder.beit.weights={path}: ")


def test_damaged_data_is_reported(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("")
    (tmp_path / "label_num_dic_final.json").write_text("[]")
    found = resolved("data.name=vspw", f"data.vspw.root={tmp_path}").content
    assert found.splits == {"train": None, "val": None}  # without class names neither is known
    assert any("label_num_dic_final.json" in line for line in found.missing)
    assert found.classes is None


def test_only_the_encoder_in_use_is_asked_for_weights(weights: Path) -> None:
    config = compose("demo", [f"encoder.timm_pyramid.weights={weights}"])
    assert input_digests.content_files(config) == {}
    used = compose("demo", [f"encoder.timm_pyramid.weights={weights}", "encoder.name=timm_pyramid"])
    assert input_digests.content_files(used) == {"encoder.timm_pyramid.weights": str(weights)}


def test_options_that_make_no_data_are_a_mistake_of_the_person() -> None:
    with pytest.raises(UsageError, match=r"data\.synthetic\.classes=1"):
        resolved("data.synthetic.classes=1")
