"""The doctor on small real roots: data sets that are whole and broken, stores, disks, and all of it together."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from command_line import harness
from vspw_files import make_vspw, write

from harness.config import input_digests, plugins
from harness.config.compose import Config, compose
from harness.plan import plan
from harness.tools import doctor
from harness.tools.doctor import Finding, _data, _disk, _mounts, _store
from harness.tools.doctor._facts import Networks
from harness.tracking.client import Tracking

NO_MOUNTS = Path("/no/such/table/of/mounts")
EXPECT = ("data.vspw.expect_train=3", "data.vspw.expect_val=2", "data.vspw.expect_test=1")


def setting(root: Path, *more: str) -> Config:
    return input_digests.resolve(compose("demo", ["data.name=vspw", f"data.vspw.root={root}", *EXPECT, *more]), None)


def examine_data(config: Config, thorough: bool = False) -> list[Finding]:
    return list(_data.examine(config, thorough))


def unfit(findings: Iterable[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.fit is False]
    assert all(finding.remedy and "\n" not in finding.text for finding in found), "a mistake is one line with a remedy"
    return found


def assert_only(findings: Iterable[Finding], word: str, fit: bool | None = False) -> Finding:
    found = [finding for finding in findings if word in finding.text and finding.fit is fit]
    assert len(found) == 1, f"{word!r} in one finding, not in {found}"
    return found[0]


# --- data


def test_a_whole_root_is_fit(tmp_path: Path) -> None:
    found = examine_data(setting(make_vspw(tmp_path)))
    assert not unfit(found)
    assert assert_only(found, "train: 3 videos, 9 frames (3 a video)", True)
    assert "32×24 (9); 5 of 5 classes seen" in assert_only(found, "train: a sample of 9", True).text
    assert "void" not in assert_only(found, "test: a sample of 3", True).text, "the test split has no labels"


def test_files_of_0_bytes_are_named(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    empty = tmp_path / "data" / "train_00001" / "origin" / "00000002.jpg"
    empty.write_bytes(b"")
    found = unfit(examine_data(setting(tmp_path)))
    assert str(empty) in assert_only(found, "1 file of 0 bytes").text
    assert "remove their videos from train.txt" in assert_only(found, "1 file of 0 bytes").remedy
    assert "1 of a sample of 9 frames cannot be read" in assert_only(found, "cannot be read").text


def test_a_frame_without_mask(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    (tmp_path / "data" / "val_00000" / "mask" / "00000001.png").unlink()
    found = assert_only(unfit(examine_data(setting(tmp_path))), "cannot be used")
    assert "val: 1 of 2 videos" in found.text
    assert "has no mask" in found.text
    assert found.remedy == "add mask/00000001.png"


def test_listed_videos_that_are_not_there(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    (tmp_path / "train.txt").write_text("train_00000\nghost\ntrain_00002\n")
    found = assert_only(unfit(examine_data(setting(tmp_path))), "cannot be used")
    assert "train: 1 of 3 videos cannot be used (ghost)" in found.text


def test_masks_without_image_are_a_note(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    (tmp_path / "data" / "val_00001" / "origin" / "00000000.jpg").unlink()
    found = examine_data(setting(tmp_path))
    assert not unfit(found)
    assert "val_00001/mask/00000000.png" in assert_only(found, "without image", None).text


@pytest.mark.parametrize(("pixels", "fit"), [(3, None), (500, False)])
def test_mask_values_that_are_no_class(tmp_path: Path, pixels: int, fit: bool | None) -> None:
    make_vspw(tmp_path, {"train": 1, "val": 1, "test": 1})
    mask = np.ones((24, 32), np.uint8)
    mask.flat[:pixels] = 200
    write(tmp_path / "data" / "train_00000" / "mask" / "00000001.png", mask)
    found = assert_only(examine_data(setting(tmp_path)), "not a class", fit)
    assert f"200 ({pixels} pixels)" in found.text
    assert f"{pixels / (3 * 24 * 32):.2%}" in found.text


def test_masks_that_hold_no_class_at_all(tmp_path: Path) -> None:
    make_vspw(tmp_path, {"train": 1, "val": 1, "test": 1}, frames=1)
    write(tmp_path / "data" / "train_00000" / "mask" / "00000000.png", np.zeros((24, 32), np.uint8))
    assert (
        "0 of 5 classes seen, 100.0% of pixels void" in assert_only(unfit(examine_data(setting(tmp_path))), "void").text
    )


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    write(tmp_path / "data" / "train_00000" / "mask" / "00000000.png", np.ones((24, 30), np.uint8))
    assert "the mask is 30×24, its image 32×24" in assert_only(unfit(examine_data(setting(tmp_path))), "mask").text


def test_a_sample_misses_what_thorough_finds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_vspw(tmp_path, frames=25, size=(8, 8))
    pairs = [(f"train_{video:05d}", f"{time:08d}") for video in range(3) for time in range(25)]
    video, frame = next(pair for pair in pairs if pair not in _data.spread(pairs, _data.SAMPLE))
    (tmp_path / "data" / video / "mask" / f"{frame}.png").write_bytes(b"no picture")
    assert not unfit(examine_data(setting(tmp_path)))
    found = unfit(_data.examine(setting(tmp_path), True))
    assert f"{video}/mask/{frame}.png" in assert_only(found, "1 of every frame cannot be read").text
    assert caplog.messages == ["train: 64 of 75 frames read", "train: 75 of 75 frames read"]


def test_counts_that_must_be_met(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    found = assert_only(examine_data(setting(tmp_path, "data.vspw.expect_train=4")), "not the 4")
    assert "data.vspw.expect_train=3" in found.remedy
    own = compose("demo", ["data.name=vspw", f"data.vspw.root={tmp_path}"])
    assert assert_only(examine_data(own), "not the 2806", None), "data of one's own need not have VSPW's numbers"
    (tmp_path / "label_num_dic_final.json").unlink()
    found = examine_data(own)
    assert assert_only(found, "not the 2806"), "what has VSPW's classes must have its videos"
    assert assert_only(found, "the class names are VSPW's 124", None)


def test_a_damaged_class_list(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    (tmp_path / "label_num_dic_final.json").write_text('{"wall": 1, "door": 3}')
    assert "without gap" in assert_only(unfit(examine_data(setting(tmp_path))), "class numbers").text


def test_a_missing_root_is_said_once(tmp_path: Path) -> None:
    found = examine_data(setting(tmp_path / "absent"))
    assert [finding.fit for finding in found if "no such folder" in finding.text] == [False]


def test_trouble_with_the_test_split_is_a_note(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    (tmp_path / "test.txt").unlink()
    found = examine_data(setting(tmp_path))
    assert not unfit(found)
    assert assert_only(found, "no table needs the test split", None)


def test_any_data_set_is_examined(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.py").write_text(OWN)
    config = compose("demo", ["data.name=mine"], [tmp_path])
    assert not unfit(examine_data(compose("demo")))
    found = unfit(examine_data(config))
    assert "train: 1 of a sample of 2 frames cannot be read: train v 1: label 7 of 2 classes" in found[0].text
    assert "KeyError" in assert_only(found, "val: 1 of 1 video cannot be used (v)").text


OWN = """
from dataclasses import dataclass
import numpy as np
from harness.data.contract import Frame

VERSION = 1

@dataclass(frozen=True)
class Config:
    pass

class Dataset:
    classes = ("a", "b")

    def __init__(self, config):
        pass

    def videos(self, split):
        return () if split == "test" else ("v",)

    def frames(self, split, video):
        return {"train": ("0", "1")}[split]

    def read(self, split, video, frame):
        return Frame(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 7 * int(frame), np.uint8))
"""


def test_the_script_of_the_docs_makes_a_root_that_is_fit(tmp_path: Path) -> None:
    for number, (split, video) in enumerate((("train", "a_1"), ("train", "a_2"), ("val", "b_1"))):
        for frame in ("0", "1"):
            label = np.roll([[0, 1, 2, 255]] * 3, number, 1).astype(np.uint8)
            write(tmp_path / "mine" / split / video / "labels" / f"{frame}.png", label)
            write(tmp_path / "mine" / split / video / "frames" / f"{frame}.png", np.stack([label] * 3, -1))
    text = (plugins.PROJECT / "docs" / "DATA.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    more = ("data.vspw.expect_train=2", "data.vspw.expect_val=1")
    found = examine_data(setting(tmp_path / "mine_vspw", *more), thorough=True)
    assert not unfit(found)
    assert assert_only(found, "vspw: 3 classes: road, building, tree", True)
    assert (
        "4×3 (4); 3 of 3 classes seen, 25.0% of pixels void" in assert_only(found, "train: every frame read", True).text
    )


# --- store


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Tracking(f"sqlite:///{path}").connect()
    return path


def examine_store(uri: str, prefix: str = "", mounts: Path = NO_MOUNTS) -> list[Finding]:
    return list(_store.examine(uri, prefix, mounts))


def test_a_store_that_opens(database: Path) -> None:
    (found,) = examine_store(f"sqlite:///{database}", "site")
    assert found.fit
    assert "has a current schema and can be written (experiments named site/…)" in found.text


def test_a_store_of_another_schema(database: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    old.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '728d730b5ebd'")
        connection.commit()
    (found,) = unfit(examine_store(f"sqlite:///{old}"))
    assert "schema" in found.text
    assert "mlflow db upgrade" in found.remedy


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    (found,) = examine_store(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert found.fit
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    (found,) = unfit(examine_store(f"sqlite:///{tmp_path}/file/mlflow.db"))
    assert "cannot be created" in found.text


def test_a_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name says\n" * 40)
    (found,) = unfit(examine_store(f"sqlite:///{tmp_path}/mlflow.db"))
    assert "not a database" in found.text
    (found,) = unfit(examine_store(str(tmp_path / "mlruns")))
    assert "no longer stores runs in folders" in found.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_only_be_read(database: Path) -> None:
    database.chmod(0o444)
    try:
        (found,) = unfit(examine_store(f"sqlite:///{database}"))
    finally:
        database.chmod(0o644)
    assert "cannot be written" in found.text


def test_a_store_that_refuses_to_be_written(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, mode: mode != os.W_OK
    )  # what the kernel tells those who are not root
    (found,) = unfit(examine_store(f"sqlite:///{database}"))
    assert "cannot be written" in found.text


def test_a_server_that_does_not_answer() -> None:
    (found,) = unfit(examine_store("http://someone:secret@127.0.0.1:9"))
    assert "MLFLOW_TRACKING_URI" in found.remedy
    assert "secret" not in found.text + found.remedy


def test_sqlite_on_a_network_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    shared = tmp_path / "my home"
    shared.mkdir()
    escaped = str(shared).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nnas:/h {escaped} nfs4 rw 0 0\n/dev/sdb {tmp_path}/own fuseblk rw 0 0\n")
    note, creatable = examine_store(f"sqlite:///{shared}/deep/mlflow.db", mounts=mounts)
    assert note.fit is None
    assert f"nfs4 at {shared}" in note.text
    assert note.remedy
    assert creatable.fit
    assert _mounts.network(tmp_path / "own" / "x", mounts) is None, "fuseblk is a local disk"
    mounts.write_text(f"nas:/h / nfs rw 0 0\n/dev/sda {tmp_path} xfs rw 0 0\n")
    assert _mounts.network(tmp_path, mounts) is None, "the innermost mount decides"
    assert _mounts.network(Path("/usr"), mounts) == "nfs at /"
    assert _mounts.network(Path("/usr"), NO_MOUNTS) is None


# --- disk


def test_the_root_and_its_space(tmp_path: Path) -> None:
    made = plan.make(["ablation_ensemble"], compose("demo"), tmp_path / "runs")
    trainings = {job.decoder: 250_000_000 for job in made.jobs if isinstance(job, plan.Train)}
    (found,) = _disk.examine(tmp_path / "runs", made.jobs, Networks(parameters=trainings), NO_MOUNTS)
    state = 4 * 250_000_000
    need = len(trainings) * state * 7 + 3 * state
    assert f"{len(trainings)} missing trainings and their evaluations need at most {need / 2**30:.1f} GiB" in found.text
    huge = dict.fromkeys(trainings, 10**18)
    assert unfit(_disk.examine(tmp_path / "runs", made.jobs, Networks(parameters=huge), NO_MOUNTS))
    assert not (tmp_path / "runs").exists(), "looking makes nothing"
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    (found,) = unfit(_disk.examine(tmp_path / "runs", [], Networks(), NO_MOUNTS))
    assert "--root" in found.remedy


# --- all of it


def test_the_demo_is_fit_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan.make(["ablation_ensemble"], compose("demo"), tmp_path / "runs")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    found = list(doctor.examine(made.config, tmp_path / "runs", uri, plan=made, mounts=NO_MOUNTS))
    assert not [finding for finding in unfit(found) if finding.part != "software"]
    assert list(dict.fromkeys(finding.part for finding in found)) == [
        "software", "devices", "weights", "disk", "store", "data",
    ]  # fmt: skip
    assert assert_only(found, "encoder beit: 0.3 M parameters, windows of 64", True)
    assert assert_only(found, "missing trainings and their evaluations need", True)
    assert list(tmp_path.iterdir()) == []
    answer = json.loads(json.dumps(doctor.findings_json(found)))
    assert answer["schema"] == 1
    assert answer["findings"][0].keys() == {"part", "fit", "text", "remedy"}


def test_one_part_alone(tmp_path: Path) -> None:
    done = harness(tmp_path, "doctor", "data", "store", "ablation_ensemble", "--json")
    assert done.returncode == 0, done.stderr
    assert {finding["part"] for finding in json.loads(done.stdout)["findings"]} == {"data", "store"}
    assert "importing torch" not in done.stderr
    assert "building the encoder" not in done.stderr
    broken = harness(tmp_path, "doctor", "data", "data.name=vspw")
    assert broken.returncode == 3
    assert {line.split()[0] for line in broken.stdout.splitlines()} <= {"setting", "OK", "FAIL", "note"}
    assert "data.vspw.root is not set" in broken.stdout
    assert "no experiment 'dat'" in harness(tmp_path, "doctor", "dat").stderr


def test_lines_and_json() -> None:
    bad = Finding("disk", False, "full", "free some space")
    assert doctor.line(bad) == "FAIL  disk      full  ->  free some space"
    assert doctor.findings_json([Finding("disk", None, "so")])["fit"] is True
    assert doctor.findings_json([bad, Finding("disk", True, "so")])["fit"] is False
