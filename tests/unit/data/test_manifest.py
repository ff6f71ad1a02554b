"""Files by content: what is noticed, what is not, what is cached, and that the cache cannot lie."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from heard_progress import Heard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from vspw_files import make_vspw

from harness.common.errors import UnfitError
from harness.common.progress import Progress
from harness.data import manifest
from harness.data.datasets import vspw
from harness.data.manifest import compare, parse, take, text

SPLITS = ("train", "val", "test")
TICK = 20 * 10**6  # ns; longer than one of the kernel's clock, so that a test of a second has trusted entries


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def digest(root: Path, split: str, cache: Path | None = None) -> str | None:
    data = vspw.Dataset(vspw.Config(root=str(root)))
    return take(data.split_files(split), None if cache is None else cache / f"{split}.npz").digest


def digests(root: Path, cache: Path | None = None) -> dict[str, str | None]:
    return {split: digest(root, split, cache) for split in SPLITS}


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """In memory where that can be: a disk is waited for at every rename."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=memory) as folder:
        yield make_vspw(Path(folder) / "root", {"train": 2, "val": 2, "test": 1}, 2, (8, 12))


# what is noticed


def flip(path: Path, at: int) -> None:
    """Another value of one pixel, in a format that keeps it."""
    pixels = np.array(Image.open(path))
    pixels.reshape(-1)[at % pixels.size] ^= 128
    Image.fromarray(pixels).save(path, format="png")


def edit(path: Path, at: int) -> None:
    """Another byte in place, with the file's size, inode and time as before."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at % before.st_size)
        byte = file.read(1)
        file.seek(at % before.st_size)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_frame(path: Path, at: int) -> None:
    for folder, suffix in (("origin", ".jpg"), ("mask", ".png")):
        old = path.parents[1] / folder / f"{path.stem}{suffix}"
        if old.exists():
            old.rename(old.with_name(f"{at + 10:09d}{suffix}"))


def rename_video(path: Path, at: int) -> None:
    video = path.parents[1]
    for split in SPLITS:
        names = video.parents[1] / f"{split}.txt"
        names.write_text(names.read_text().replace(video.name, f"other_{at}"))
    video.rename(video.with_name(f"other_{at}"))


def remove_frame(path: Path, at: int) -> None:
    for old in path.parents[1].glob(f"*/{path.stem}.*"):
        old.unlink()


def add_frame(path: Path, at: int) -> None:
    for old in list(path.parents[1].glob(f"*/{path.stem}.*")):
        shutil.copy2(old, old.with_name(f"{at + 10:09d}{old.suffix}"))


def encode_again(path: Path, at: int) -> None:
    Image.open(path).save(path, format="png", compress_level=at % 9)
    path.write_bytes(path.read_bytes() + b"\0")  # where the encoder gives the same bytes


CHANGES = (flip, edit, rename_frame, rename_video, remove_frame, add_frame, encode_again)


@examples(1000)
@given(which=st.sampled_from(CHANGES), file=st.integers(0, 10**6), at=st.integers(0, 10**6))
def test_every_change_is_noticed_and_its_undoing_too(data: Path, monkeypatch, which, file: int, at: int) -> None:
    monkeypatch.setattr(manifest, "RACY", TICK)
    cache, kept = data.parent / "cache", data.parent / "kept"
    files = sorted(data.glob("data/*/*/*"))
    path = files[file % len(files)]
    video, lists = path.parents[1], {name: (data / f"{name}.txt").read_text() for name in SPLITS}
    split = video.name.partition("_")[0]
    before = digest(data, split, cache)
    shutil.copytree(video, kept)
    which(path, at)
    after = digest(data, split, cache)
    assert after != before
    assert after == digest(data, split)
    shutil.rmtree(video if video.exists() else video.with_name(f"other_{at}"))
    kept.rename(video)
    for name, text_of_list in lists.items():
        (data / f"{name}.txt").write_text(text_of_list)
    assert digest(data, split, cache) == before


def move(root: Path, at: int) -> None:
    root.rename(root.with_name("elsewhere"))
    shutil.copytree(root.with_name("elsewhere"), root, copy_function=os.rename if at % 2 else shutil.copy2)
    shutil.rmtree(root.with_name("elsewhere"))


def copy(root: Path, at: int) -> None:
    shutil.copytree(root, root.with_name("copy"), copy_function=shutil.copyfile if at % 2 else shutil.copy2)
    shutil.rmtree(root)
    root.with_name("copy").rename(root)


def touch(root: Path, at: int) -> None:
    for path in list(root.glob("data/*/*/*"))[at % 3 :: 3]:
        os.utime(path, ns=(at * 10**9, at * 10**9))


def link(root: Path, at: int) -> None:
    """Files as links to a copy, hard or symbolic."""
    kept = root.with_name(f"linked_{at}")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(root, kept)
    for path in sorted(root.glob("data/*/*/*")):
        path.unlink()
        (os.link if at % 2 else os.symlink)(kept / path.relative_to(root), path)


def write_again(root: Path, at: int) -> None:
    for path in list(root.glob("data/*/*/*"))[at % 2 :: 2]:
        path.write_bytes(path.read_bytes())


@examples(200)
@given(which=st.sampled_from((move, copy, touch, link, write_again)), at=st.integers(0, 100))
def test_moving_copying_touching_and_linking_change_nothing(data: Path, which, at: int) -> None:
    root, cache = data.parent / "moved", data.parent / "cache_moved"
    if not root.exists():
        shutil.copytree(data, root)
    before = digests(data)
    which(root, at)
    assert digests(root, cache) == before


# the cache


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, Path]]:
    found = []
    for index in range(200):
        path = tmp_path / "files" / f"{index:03d}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(50))
        found.append((path.name, path))
    return found


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been left alone for long enough."""
    monkeypatch.setattr(manifest, "RACY", -(10**9))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths of the files that are read."""
    read: list[str] = []
    real = manifest._sum
    monkeypatch.setattr(manifest, "_sum", lambda path: read.append(path) or real(path))
    return read


def test_a_second_look_reads_no_file_and_a_change_only_its_own(tmp_path: Path, files, aged, unread, caplog) -> None:
    cache = tmp_path / "cache.npz"
    first = take(files, cache, progress=Progress())
    assert len(unread) == len(files)
    assert caplog.messages == ["digesting data: 200/200 files"]
    unread.clear()
    assert take(files, cache).digest == first.digest
    assert unread == []
    files[7][1].write_bytes(b"other")
    assert take(files, cache, compute=False).pending == 1
    assert take(files, cache, compute=False).digest is None
    assert unread == []
    second = take(files, cache)
    assert unread == [str(files[7][1])]
    assert compare(first.digests, second.digests).changed == ("007",)
    fewer = take(files[:50], cache)
    assert len(unread) == 1
    assert fewer.digest == take(files[:50]).digest


def test_what_was_changed_just_before_is_read_again_even_while_planning(tmp_path: Path, files, unread) -> None:
    cache = tmp_path / "cache.npz"
    first = take(files, cache)
    unread.clear()
    assert take(files, cache, compute=False).digest == first.digest
    assert len(unread) == len(files)


def test_a_change_within_a_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    """Same size, inode and times: only that the first reading was not trusted shows it."""
    path, cache = tmp_path / "file", tmp_path / "cache.npz"
    path.write_bytes(b"0")
    for index in range(300):
        before = take([("file", path)], cache).digest
        with path.open("r+b") as file:
            file.write(bytes([49 + index % 2]))
        assert take([("file", path)], cache).digest != before


def test_a_file_from_the_future_is_never_trusted(tmp_path: Path, files, unread) -> None:
    cache, far = tmp_path / "cache.npz", time.time_ns() + 10**15
    os.utime(files[0][1], ns=(far, far))
    take(files, cache)
    unread.clear()
    again = take(files[:1], cache)
    assert unread == [str(files[0][1])]
    assert again.pending == 0


def test_what_was_digested_before_a_stop_stays(tmp_path: Path, files, aged, unread) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(files, tmp_path / "cache.npz", progress=Heard(stop))
    assert 0 < take(files, tmp_path / "cache.npz", compute=False).pending < 200
    unread.clear()
    take(files, tmp_path / "cache.npz")
    assert 0 < len(unread) < 200


def test_what_cannot_be_read_is_one_line(tmp_path: Path, files) -> None:
    files[3][1].unlink()
    with pytest.raises(UnfitError, match="003: No such file"):
        take(files)
    os.mkfifo(files[3][1])
    with pytest.raises(UnfitError, match="003: is not a file"):
        take(files)


# manifests


@examples(200)
@given(
    st.dictionaries(st.text(st.characters(exclude_characters="\0"), min_size=1), st.binary(min_size=32, max_size=32))
)
def test_a_manifest_is_read_as_it_was_written(found: dict[str, bytes]) -> None:
    known = {name: value.hex() for name, value in found.items() if name.encode("utf-8", "replace").decode() == name}
    assert parse(text(known)) == known


def test_sha256sum_reads_it(tmp_path: Path) -> None:
    for name in ("plain", "with space", "back\\slash", "line\nbreak"):
        (tmp_path / "files" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_text(name)
    found = manifest.of_folder(tmp_path / "files")
    manifest.write(tmp_path / "kept.gz", found.digests)
    assert manifest.read(tmp_path / "kept.gz") == found.digests
    assert manifest.read(tmp_path / "none.gz") is None
    done = subprocess.run(
        ["sha256sum", "--check", "--strict"], input=text(found.digests), cwd=tmp_path / "files", capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_changes_are_said_by_what_the_files_are() -> None:
    before = {f"v/mask/{i}.png": f"{i}" for i in range(30)} | {"v/origin/0.jpg": "a", "v/origin/1.jpg": "b"}
    now = before | {f"v/mask/{i}.png": f"other {i}" for i in range(24)} | {"v/origin/2.jpg": "b", "list.txt": "c"}
    del now["v/origin/1.jpg"], now["v/mask/29.png"]
    changes = compare(before, now)
    assert changes.text("val") == (
        "24 masks of val, e.g. v/mask/0.png; 1 image of val renamed, e.g. v/origin/2.jpg; "
        "1 file of val added, e.g. list.txt; 1 mask of val removed, e.g. v/mask/29.png"
    )
    assert not compare(before, before)


def test_a_replaced_folder_and_a_link_to_elsewhere_are_changes(tmp_path: Path) -> None:
    root = make_vspw(tmp_path / "root", {"train": 2}, 2, (8, 12))
    files = list(vspw.Dataset(vspw.Config(root=str(root))).split_files("train"))
    time.sleep(0.02)
    now = time.time()
    time.sleep(0.02)
    assert manifest.changed_since(take(files), now, root) == []
    video = root / "data" / "train_00000"
    shutil.copytree(root / "data" / "train_00001" / "mask", tmp_path / "mask")
    (video / "mask").rename(tmp_path / "old")
    (video / "mask").symlink_to(tmp_path / "old")
    assert str(video / "mask") in manifest.changed_since(take(files), now, root)
