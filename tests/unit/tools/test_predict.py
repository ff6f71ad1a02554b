import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_jobs
from heard_progress import Heard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from vspw_files import make_vspw

from harness.common.errors import UnfitError, UsageError
from harness.config.compose import DataSpec
from harness.engine.runtime import Stop
from harness.tools import predict as module
from harness.tools.predict import predict

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    tiny_jobs.train_now(tiny_jobs.training(root, "a" * 16, "decoder_a", epochs=1))
    tiny_jobs.train_now(tiny_jobs.training(root, "b" * 16, "decoder_b", epochs=1))
    return root / "jobs"


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):  # a size of its own, odd, larger than the window
        Image.fromarray(rng.integers(0, 255, (41, 67, 3), dtype=np.uint8)).save(folder / f"f{index}.png")
    return folder


def masks(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.array(Image.open(path)) for path in sorted((folder / "masks").glob("*.png"))}


def test_a_training_says_its_classes_where_its_data_is_gone(tmp_path: Path, frames: Path) -> None:
    videos = make_vspw(tmp_path / "d", size=(32, 40), classes=3)
    data = DataSpec("vspw", {"root": str(videos)})
    trained = tiny_jobs.training(tmp_path, "a" * 16, "upernet", data=data, epochs=1, batch=2, micro_batch=2)
    tiny_jobs.train_now(trained)
    videos.rename(tmp_path / "moved")
    assert predict([trained], frames, tmp_path / "out").new == 4
    assert all(mask.max() < 3 for mask in masks(tmp_path / "out").values())


@pytest.mark.parametrize(("names", "stage"), [("a", 0), ("b", 1), ("ab", 0)])
def test_frames_of_any_size_by_any_members_and_stages(
    root: Path, frames: Path, tmp_path: Path, names: str, stage: int
) -> None:
    seen = []
    done = predict(
        [root / (n * 16) for n in names],
        frames,
        tmp_path / "out",
        stage,
        Heard(lambda d, total: seen.append((d, total))),
    )
    found = masks(tmp_path / "out")
    assert list(found) == [f"f{index}.png" for index in range(4)]
    assert all(mask.shape == (41, 67) and mask.max() < 4 for mask in found.values())
    assert Image.open(tmp_path / "out" / "masks" / "f0.png").mode == "P"
    assert seen == [(index, 4) for index in range(1, 5)]
    assert done.new == 4
    assert done.overlay.name == "overlay.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(done.overlay))[0] == 4


def test_a_stopped_prediction_goes_on_and_gives_the_same(
    root: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [root / ("a" * 16), root / ("b" * 16)]
    predict(members, frames, tmp_path / "whole")
    monkeypatch.setattr(module, "EVERY", 1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(members, frames, tmp_path / "parts", 0, Heard(stop))
    again = predict(members, frames, tmp_path / "parts")
    assert (again.frames, again.new) == (4, 2)
    whole, parts = masks(tmp_path / "whole"), masks(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)
    with pytest.raises(UsageError, match="other checkpoints"):
        predict(members[:1], frames, tmp_path / "parts")
    (tmp_path / "parts" / "state.pt").write_bytes(pickle.dumps(os.getcwd))  # a pickle that names a function
    with pytest.raises(UnfitError, match=r"state\.pt.*remove it"):
        predict(members, frames, tmp_path / "parts")


def picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (41, 67, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def same(one: Path, other: Path) -> bool:
    left, right = masks(one), masks(other)
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_frames_that_changed_or_came_in_front_or_went_are_predicted_as_they_are_now(
    root: Path, frames: Path, tmp_path: Path
) -> None:
    members, out = [root / ("b" * 16)], tmp_path / "out"

    def fresh(name: str) -> Path:
        predict(members, frames, tmp_path / name)
        return tmp_path / name

    predict(members, frames, out)
    old = masks(out)
    again = predict(members, frames, out)
    assert (again.frames, again.new, again.replaced) == (4, 0, 0)

    for index in range(4):
        picture(frames / f"f{index}.png", 10 + index)
    done = predict(members, frames, out)
    assert (done.frames, done.new, done.replaced) == (4, 4, 4)
    assert same(out, fresh("overwritten"))
    assert (np.array(Image.open(out / "replaced" / "1" / "masks" / "f0.png")) == old["f0.png"]).all()

    picture(frames / "a.png", 20)  # in front
    done = predict(members, frames, out)
    assert (done.frames, done.new, done.replaced) == (5, 5, 0)
    assert same(out, fresh("in front"))

    (frames / "f1.png").unlink()
    done = predict(members, frames, out)
    assert (done.frames, done.replaced) == (4, 1)
    assert same(out, fresh("gone"))
    assert (out / "replaced" / "2" / "masks" / "f1.png").is_file()
    assert (out / "replaced" / "2" / "overlays" / "f1.jpg").is_file()

    picture(frames / "z.png", 30)  # at the end: what was before goes on
    done = predict(members, frames.rename(tmp_path / "moved"), out)
    assert (done.frames, done.new, done.replaced) == (5, 1, 0)
    frames = tmp_path / "moved"
    assert same(out, fresh("at the end"))


def test_a_stopped_prediction_of_changed_frames_leaves_nothing_that_looks_done(
    root: Path, frames: Path, tmp_path: Path
) -> None:
    members, out = [root / ("a" * 16)], tmp_path / "out"
    predict(members, frames, out)
    predict(members, frames, tmp_path / "wanted")
    shutil.copytree(frames, tmp_path / "kept")
    for index in range(4):
        picture(frames / f"f{index}.png", 10 + index)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(members, frames, out, 0, Heard(stop))
    assert predict(members, tmp_path / "kept", out).new == 4
    assert same(out, tmp_path / "wanted")
    (out / "masks" / "f2.png").unlink()
    predict(members, tmp_path / "kept", out)
    assert same(out, tmp_path / "wanted")


def test_exchanged_weights_predict_anew(root: Path, frames: Path, tmp_path: Path) -> None:
    shutil.copytree(root / ("a" * 16), tmp_path / "training")
    predict([tmp_path / "training"], frames, tmp_path / "out")
    path = tmp_path / "training" / "weights.safetensors"
    with safe_open(path, "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file({name: -value if value.is_floating_point() else value for name, value in state.items()}, path, metadata)
    path.with_suffix(".sha256").unlink()
    done = predict([tmp_path / "training"], frames, tmp_path / "out")
    assert (done.new, done.replaced) == (4, 4)
    predict([tmp_path / "training"], frames, tmp_path / "fresh")
    assert same(tmp_path / "out", tmp_path / "fresh")


def test_a_shorter_video_leaves_no_mask_of_the_longer_one(root: Path, tmp_path: Path) -> None:
    predict([root / ("a" * 16)], film(tmp_path / "film.mkv"), tmp_path / "out")
    done = predict([root / ("a" * 16)], film(tmp_path / "film.mkv", frames=5), tmp_path / "out")
    assert done.frames == len(masks(tmp_path / "out")) == 5
    assert len(list((tmp_path / "out" / "replaced").rglob("masks/*.png"))) >= 7
    assert imageio_ffmpeg.count_frames_and_secs(str(done.overlay))[0] == 5


def film(path: Path, frames: int = 12) -> Path:
    writer = imageio_ffmpeg.write_frames(str(path), (64, 48), fps=10)
    writer.send(None)
    for index in range(frames):
        writer.send(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.close()
    return path


def test_a_video_and_a_truncated_one(root: Path, tmp_path: Path) -> None:
    video = film(tmp_path / "film.mkv")
    assert predict([root / ("a" * 16)], video, tmp_path / "out").frames == 12
    (tmp_path / "cut.mkv").write_bytes(video.read_bytes()[:300])
    (tmp_path / "mp4.mp4").write_bytes(film(tmp_path / "whole.mp4").read_bytes()[:-200])  # its index is at the end
    (tmp_path / "none.mp4").write_bytes(b"no video at all")
    for name in ("cut.mkv", "mp4.mp4", "none.mp4"):
        with pytest.raises(UnfitError, match=name) as caught:
            predict([root / ("a" * 16)], tmp_path / name, tmp_path / f"out-{name}")
        assert "\n" not in str(caught.value)


FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg(*words: str | Path) -> None:
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, words)], check=True)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_keeps_its_length_and_doubles_no_frame(tmp_path: Path, suffix: str) -> None:
    path, grey = tmp_path / f"v.{suffix}", "geq=lum='16+2*N':cb=128:cr=128"
    chosen = f"color=black:64x48:30:3,{grey},select='not(mod(n,7))+not(mod(n,5))'"  # 28 of 90 frames, unevenly
    ffmpeg("-f", "lavfi", "-i", chosen, "-fps_mode", "vfr", "-pix_fmt", "yuv420p", "-crf", "1", path)
    clip = module.open_clip(path)
    levels = [float(shot.image.mean()) for shot in clip.shots()]
    wanted = [(16 + 2 * n - 16) * 255 / 219 for n in range(90) if n % 7 == 0 or n % 5 == 0]
    assert clip.length == len(levels) == len(wanted) == 28
    assert np.abs(np.array(levels) - wanted).max() < 1.5
    assert clip.length / clip.rate == pytest.approx(2.85, abs=0.05), "the overlay lasts as long as the video"


@pytest.mark.parametrize("seconds", [1, 6])
def test_sound_of_another_length_is_no_error(tmp_path: Path, seconds: int) -> None:
    path, sound = tmp_path / "v.mp4", f"sine=duration={seconds}"
    ffmpeg("-f", "lavfi", "-i", "testsrc=64x48:10:3", "-f", "lavfi", "-i", sound, "-pix_fmt", "yuv420p", path)
    clip = module.open_clip(path)
    assert (clip.length, clip.rate, len(list(clip.shots()))) == (30, 10.0, 30)


def test_a_video_that_was_cut_says_so_with_sound_and_without(tmp_path: Path) -> None:
    for sound in ([], ["-f", "lavfi", "-i", "sine=duration=3"]):
        for suffix, more in (("mp4", ["-movflags", "faststart"]), ("mkv", []), ("avi", [])):
            whole, cut = tmp_path / f"w.{suffix}", tmp_path / f"cut.{suffix}"
            ffmpeg("-f", "lavfi", "-i", "testsrc=64x48:10:3", *sound, "-pix_fmt", "yuv420p", *more, whole)
            cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
            assert len(list(module.open_clip(whole).shots())) == 30
            with pytest.raises(UnfitError, match="is the file complete"):
                list(module.open_clip(cut).shots())


def test_a_video_is_turned_as_it_asks(tmp_path: Path) -> None:
    film(tmp_path / "flat.mp4")
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    shots = list(module.open_clip(tmp_path / "turned.mp4").shots())
    assert [shot.image.shape for shot in shots] == [(64, 48, 3)] * 12


def test_frames_of_a_folder_are_in_time_whatever_their_suffix(tmp_path: Path) -> None:
    for index, suffix in ((1, "png"), (2, "JPG"), (10, "PNG"), (9, "jpeg")):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"frame{index}.{suffix}")
    clip = module.open_clip(tmp_path)
    assert [shot.name for shot in clip.shots()] == ["frame1", "frame2", "frame9", "frame10"]
    assert clip.length == 4
    (tmp_path / "frame2.png").write_bytes(b"")
    with pytest.raises(UnfitError, match="two images of one frame"):
        module.open_clip(tmp_path)


def test_what_cannot_be_predicted_is_said(root: Path, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nothing"):
        with pytest.raises(UnfitError, match=source):
            predict([root / ("a" * 16)], tmp_path / source, tmp_path / "out")
    with pytest.raises(UnfitError, match=r"job\.yaml"):
        predict([tmp_path / "empty"], frames, tmp_path / "out")
    unfinished = tiny_jobs.training(tmp_path, "c" * 16)
    with pytest.raises(UnfitError, match="is the training finished"):
        predict([unfinished], frames, tmp_path / "out")
    evaluation = tiny_jobs.evaluation(tmp_path, "d" * 16, ["c" * 16])
    with pytest.raises(UsageError, match="is not a training"):
        predict([evaluation], frames, tmp_path / "out")


def test_a_training_keeps_m_and_an_evaluation_a_mask_a_video(root: Path) -> None:
    from harness.engine import evaluate

    steps = sorted((root / ("a" * 16) / "memory").glob("*.npy"))
    assert [path.name for path in steps] == ["step-000000002.npy", "step-000000004.npy", "step-000000006.npy"]
    assert np.load(steps[-1]).shape == (4, 8)
    folder = tiny_jobs.evaluation(root.parent, "e" * 16, ["a" * 16])
    evaluate.evaluate([evaluate.task(folder)], tiny_jobs.ALONE, Stop())
    kept = sorted((folder / "samples").glob("*/*.png"))
    assert len(kept) == len(list((folder / "videos").glob("*.npz"))) == 3
    assert Image.open(kept[0]).mode == "P"
