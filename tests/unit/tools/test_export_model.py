"""`harness export model` and MLflow's python_function: files that compute what the network does."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_jobs
import torch
from PIL import Image

from harness import api, cli
from harness.common.errors import UnfitError, UsageError
from harness.engine import evaluate
from harness.tools import export_model, pyfunc

NAMES = {"upernet": "a" * 16, "decoder_a": "b" * 16, "decoder_b": "c" * 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training's directory of every decoder of the paper, as if it had been trained."""
    root = tmp_path_factory.mktemp("untrained")
    return {decoder: tiny_jobs.untrained(root, name, decoder) for decoder, name in NAMES.items()}


@pytest.mark.parametrize("decoder", list(NAMES))
def test_the_program_computes_what_a_window_of_an_evaluation_does(
    trained: dict[str, Path], decoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert cli.main(["export", "model", str(trained[decoder]), str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (facts["decoder"], facts["fingerprint"], facts["window"]) == (decoder, NAMES[decoder], 32)
    assert len(facts["classes"]) == 4
    wanted = {"upernet": {"image"}, "decoder_a": {"image", "prior"}, "decoder_b": {"image", "past"}}[decoder]
    assert facts["inputs"].keys() == wanted
    assert (tmp_path / "out" / "first.pt2").exists() == (decoder == "decoder_a")
    assert {check["file"] for check in facts["checks"]} >= {"model.pt2"}
    assert all(check["largest"] <= 1e-4 for check in facts["checks"])

    model = evaluate.model(trained[decoder], 4).eval()
    image, earlier = 255 * torch.rand(1, 3, 32, 32), 255 * torch.rand(2, 3, 32, 32)
    prior = torch.randint(0, 4, (1, 32, 32))
    given = {"image": image, "past": earlier, "prior": prior}
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    with torch.inference_mode():
        past = tuple(model.decoder.remember(model.features(each[None])) for each in earlier[: len(model.decoder.past)])
        cache = model.decoder.encode(model.features(image), past)
        logits = model.decoder.predict(cache, prior if "prior" in wanted else None)
        expected = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear", align_corners=False).softmax(1)
        output = program(**{name: given[name] for name in facts["inputs"]})
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert list(output.shape) == facts["output"]["shape"]


def test_onnx_is_written_and_compared(trained: dict[str, Path], tmp_path: Path) -> None:
    for package in export_model.ONNX:
        pytest.importorskip(package, reason="the extra `onnx`")
    checks = export_model.export(trained["decoder_b"], tmp_path)
    assert [check.file for check in checks] == ["model.pt2", "model.onnx"]
    assert checks[1].agreeing > 0.99


def test_a_file_that_computes_otherwise_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"program")
    draw = {"image": torch.rand(1, 3, 4, 4)}
    with pytest.raises(UnfitError, match=r"probabilities differ from the network's by up to 0\.01"):
        export_model.compare(path, lambda given: given["image"] + 0.01, [draw], [draw["image"]])
    assert not path.exists()


def test_what_cannot_be_exported_is_one_line(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained["upernet"].parents[1]
    evaluation = tiny_jobs.evaluation(root, "e" * 16, ["a" * 16])
    assert cli.main(["export", "model", str(evaluation), str(tmp_path)]) == 2
    assert "is not a training; give a training's directory" in capsys.readouterr().err
    assert cli.main(["export", "model", str(trained["upernet"])]) == 2
    assert "give a finished training's directory" in capsys.readouterr().err
    assert cli.main(["export", "weights"]) == 2
    assert "'curves', 'report' or 'model' can be exported" in capsys.readouterr().err


def test_python_function_gives_the_masks_of_segment(trained: dict[str, Path], tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 255, (3, 40, 48, 3), dtype=np.uint8)
    for decoder in ("decoder_a", "decoder_b"):
        expected = list(api.segment([trained[decoder]], video))
        model = pyfunc._load_pyfunc(str(trained[decoder]))
        np.testing.assert_array_equal(model.predict(video.astype(np.int64)), expected)
        np.testing.assert_array_equal(model.predict(video), expected)  # a video of its own again
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, video, strict=True):
        Image.fromarray(image).save(path)
    np.testing.assert_array_equal(model.predict(pd.DataFrame({"path": list(map(str, paths))})), expected)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (np.zeros((3, 40, 48)), "frames are"),
        (np.full((1, 4, 4, 3), 256), "0 to 255"),
        (np.zeros((1, 4, 4, 3)), "float64"),
        (pd.DataFrame({"image": ["a"]}), "column 'path'"),
    ],
)
def test_other_inputs_are_refused(given: object, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pyfunc.frames(given)
