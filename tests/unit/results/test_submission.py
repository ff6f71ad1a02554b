"""Masks for a server: what it would refuse, a line each, in a folder and in a .zip; and how a row packs its own."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import cli
from harness.common.errors import UnfitError
from harness.config import compose as config
from harness.config.compose import Config, compose
from harness.data import manifest
from harness.plan import plan
from harness.plan.plan import Plan
from harness.plan.spec import to_json
from harness.results import cells, submission

DATA = (
    *("data.synthetic.test_videos=2", "data.synthetic.frames=2", "data.synthetic.classes=4"),
    *("data.synthetic.height=16", "data.synthetic.width=24", "data.synthetic.objects=1"),
)


@pytest.fixture
def tiny() -> Config:
    return compose("demo", DATA)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """A submission with nothing wrong."""
    folder = tmp_path / "masks"
    for video in ("test_0000", "test_0001"):
        (folder / video).mkdir(parents=True)
        for frame in ("0000", "0001"):
            Image.fromarray(np.full((16, 24), 3, np.uint8)).save(folder / video / f"{frame}.png")
    return folder


def test_a_whole_folder_and_its_zip_are_fit(tiny: Config, masks: Path, tmp_path: Path) -> None:
    packed = tmp_path / "out" / "masks.zip"
    submission.pack(masks, packed)
    assert submission.check(masks, tiny, "test") == submission.check(packed, tiny, "test") == []
    with zipfile.ZipFile(packed) as found:
        names = [f"test_000{video}/000{frame}.png" for video in range(2) for frame in range(2)]
        assert found.namelist() == names
    again = tmp_path / "again.zip"
    submission.pack(masks, again)
    assert again.read_bytes() == packed.read_bytes()


def test_links_are_followed(tiny: Config, masks: Path, tmp_path: Path) -> None:
    (masks / "test_0000").rename(tmp_path / "elsewhere")
    (masks / "test_0000").symlink_to(tmp_path / "elsewhere")
    path = masks / "test_0001" / "0001.png"
    path.rename(tmp_path / "mask.png")
    path.symlink_to(tmp_path / "mask.png")
    assert submission.check(masks, tiny, "test") == []
    (masks / "test_0001" / "again").symlink_to(masks)  # a circle
    assert len(submission.check(masks, tiny, "test")) < 10


def test_every_mistake_is_a_line_of_its_own(tiny: Config, masks: Path, tmp_path: Path) -> None:
    (masks / "test_0000" / "0000.png").unlink()
    Image.fromarray(np.zeros((8, 24), np.uint8)).save(masks / "test_0000" / "0001.png")
    Image.fromarray(np.full((16, 24), 4, np.uint8)).save(masks / "test_0001" / "0000.png")
    Image.fromarray(np.zeros((16, 24), np.uint16)).save(masks / "test_0001" / "0001.png")
    (masks / "readme.txt").write_text("hello")
    (masks / "val_0000").mkdir()
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(masks / "val_0000" / "0000.png")
    packed = tmp_path / "masks.zip"
    with zipfile.ZipFile(packed, "w") as target:
        for path in sorted(masks.rglob("*")):
            target.write(path, path.relative_to(masks))
    for place in (masks, packed):
        missing, size, label, stored, *extra = submission.check(place, tiny, "test")
        assert missing == "test_0000/0000.png: missing"
        assert size == "test_0000/0001.png: is 24×8, its frame 24×16"
        assert label.endswith("test_0001/0000.png: contains 4, which is not a class; indices run from 0 to 3")
        assert "test_0001/0001.png: is stored as" in stored
        assert "not uint8" in stored
        assert extra == [
            f"{name}: not a frame of the test split; remove it" for name in ("readme.txt", "val_0000/0000.png")
        ]


def test_a_damaged_file_and_a_colour_picture_are_lines_as_well(tiny: Config, masks: Path) -> None:
    (masks / "test_0000" / "0000.png").write_bytes(b"\x89PNG cut off")
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(masks / "test_0000" / "0001.png")
    damaged, colour = submission.check(masks, tiny, "test")
    assert "damaged" in damaged
    assert "3 channels" in colour


def test_neither_folder_nor_zip_is_unfit(tiny: Config, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    for name in ("absent", "text.zip"):
        with pytest.raises(UnfitError, match="neither a folder"):
            submission.check(tmp_path / name, tiny, "test")


def test_the_command_line_says_it_and_ends_with_3(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["score", str(masks), "--split", "test", *DATA]
    assert cli.main(words) == 0
    assert "ready to submit" in capsys.readouterr().err
    (masks / "test_0001" / "0001.png").unlink()
    assert cli.main(words) == 3
    said = capsys.readouterr()
    assert said.out == "test_0001/0001.png: missing\n"
    assert "the server would reject it: 1 problem(s)" in said.err
    assert cli.main([*words, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problems"] == ["test_0001/0001.png: missing"]


def finished(made: Plan, masks: Path | None) -> plan.Cell:
    """The test row of a plan whose evaluation is done, its masks in place."""
    (cell,) = [cell for _, cell in made.experiments[0].cells if cell.name == "test"]
    folder = made.directory(cell.job)
    (folder / "videos").mkdir(parents=True)
    (folder / "outcome.json").write_text('{"status": "finished"}')
    for video in ("test_0000", "test_0001"):
        np.savez(folder / "videos" / f"{video}.npz", confusion=np.zeros((4, 4), np.int64), frames=2, void=0)
    if masks is not None:
        masks.rename(folder / "masks")
    return cell


def test_a_row_without_labels_is_packed_once(tiny: Config, masks: Path, tmp_path: Path) -> None:
    made = plan.make(["final_framework"], tiny, tmp_path / "runs")
    cell = finished(made, masks)
    found = cells.read(made, cell, {})
    packed = tmp_path / "runs" / "submissions" / f"test_{cell.job.fingerprint}.zip"
    assert found == {
        "status": "unlabelled",
        "reason": f"no ground truth for scoring; checked and packed for the server as {packed}",
    }
    written = packed.stat().st_mtime_ns
    assert cells.read(made, cell, {}) == found
    assert packed.stat().st_mtime_ns == written


def test_masks_that_are_gone_or_wrong_are_not_packed(tiny: Config, masks: Path, tmp_path: Path) -> None:
    (masks / "test_0001" / "0001.png").unlink()
    for name, folder, said in (
        ("one", None, "not packed: its masks have been deleted"),
        ("two", masks, "not packed: test_0001/0001.png: missing"),
    ):
        made = plan.make(["final_framework"], tiny, tmp_path / name)
        assert cells.read(made, finished(made, folder), {})["reason"] == said
        assert not list((tmp_path / name).glob("submissions/*"))


def test_masks_that_changed_since_they_were_made_are_not_packed(tiny: Config, masks: Path, tmp_path: Path) -> None:
    made = plan.make(["final_framework"], tiny, tmp_path / "runs")
    cell = finished(made, masks)
    manifest.seal(made.directory(cell.job))
    path = made.directory(cell.job) / "masks" / "test_0001" / "0001.png"
    Image.fromarray(1 - np.array(Image.open(path)) % 2).save(path)
    reason = cells.read(made, cell, {})["reason"]
    assert reason.startswith(
        "not packed: the masks changed after they were produced: 1 file of its masks, e.g. test_0001/0001.png;"
    )
    assert not list((tmp_path / "runs").glob("submissions/*"))


def test_prior_masks_that_changed_since_they_were_made_are_refused(tmp_path: Path) -> None:
    made = plan.make(["ablation_stages"], compose("demo", []), tmp_path)
    folder = tmp_path / "zero"
    (folder / "masks" / "val_0000").mkdir(parents=True)
    (folder / "job.yaml").write_text(json.dumps(to_json(made.experiments[0].cells[0][1].job.spec())))
    mask = folder / "masks" / "val_0000" / "0000.png"
    mask.write_bytes(b"one")
    manifest.seal(folder)
    given = compose("demo", [f"evaluate.prior_masks={folder}"])
    plan.make(["ablation_stages"], given, tmp_path)
    mask.write_bytes(b"two")
    with pytest.raises(
        config.UsageError,
        match=r"changed since they were made: 1 file of them, e\.g\. val_0000/0000\.png",
    ):
        plan.make(["ablation_stages"], given, tmp_path)


def test_a_data_set_without_a_test_split_leaves_the_row_out(tmp_path: Path) -> None:
    made = plan.make(["final_framework"], compose("demo", ["data.synthetic.test_videos=0"]), tmp_path)
    (cell,) = [cell for _, cell in made.experiments[0].cells if cell.name == "test"]
    assert cell.skip == "the data set has no video in its test split"
    assert cell.job not in made.jobs
    assert cells.read(made, cell, {}) == {"status": "missing", "reason": cell.skip}


def test_masks_of_another_stage_or_data_set_as_prior_are_refused(tmp_path: Path) -> None:
    def make(name: str = "ablation_stages", *keys: str, root: Path = tmp_path) -> Plan:
        return plan.make([name], compose("demo", keys), root)

    def kept(job: plan.Evaluate, name: str) -> str:
        (tmp_path / name / "masks").mkdir(parents=True)
        (tmp_path / name / "job.yaml").write_text(json.dumps(to_json(job.spec())))
        return f"evaluate.prior_masks={tmp_path / name}"

    zero, *_, three, _ = (cell.job for _, cell in make().experiments[0].cells)
    first = kept(zero, "zero")
    assert [job.fingerprint for job in make("ablation_stages", first).jobs] == [job.fingerprint for job in make().jobs]
    other = make("ablation_stages", "data.synthetic.noise=3").experiments[0].cells[0][1].job
    upernet = make("ablation_ensemble").experiments[0].cells
    for key, said in (
        (kept(three, "three"), "masks of stage 3; this plan's stages read those of stage 0, 1, 2"),
        (kept(other, "noise"), "masks of other data than this plan's: synthetic with noise=3"),
        (kept(upernet[0][1].job, "upernet"), "masks of other checkpoints"),
        (kept(upernet[3][1].job, "both"), "masks of an ensemble"),
        (f"evaluate.prior_masks={tmp_path}", "not a job directory with masks"),
    ):
        with pytest.raises(config.UsageError, match=said):
            make("ablation_stages", key)
    with pytest.raises(config.UsageError, match="no row of this plan has a previous stage"):
        make("ablation_ensemble", first)
