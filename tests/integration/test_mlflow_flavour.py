"""A registered model is one of MLflow's own: `mlflow models predict`."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from command_line import environment
from in_process import harness

from harness import api
from harness.config.compose import compose
from harness.plan import plan

pytestmark = pytest.mark.long

WORDS = (
    *("data.synthetic.train_videos=4", "data.synthetic.val_videos=3", "data.synthetic.frames=2"),
    *("train.epochs=1", "train.batch=4", "train.frames_per_video=2"),
)


def test_mlflow_predicts_with_a_registered_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = harness(tmp_path, "run", "ablation_ensemble", *WORDS, "--json")
    assert done.returncode == 0, done.stderr
    store = f"sqlite:///{tmp_path}/mlflow.db"
    video = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), dtype=np.uint8)
    made = plan.make(["ablation_ensemble"], compose("demo", WORDS), tmp_path / "runs")
    training = next(job for job in made.jobs if getattr(job, "decoder", "") == "decoder_b")
    expected = list(api.segment([made.directory(training)], video))

    (tmp_path / "in.json").write_text(json.dumps({"inputs": video.tolist()}))
    command = ["models", "predict", "-m", "models:/synthetic-decoder-b/1", "--env-manager", "local"]
    answered = subprocess.run(
        [sys.executable, "-m", "mlflow", *command, "-i", "in.json", "-o", "out.json"],
        cwd=tmp_path,
        env={**environment(), "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.returncode == 0, answered.stderr
    masks = json.loads((tmp_path / "out.json").read_text())["predictions"]
    np.testing.assert_array_equal(masks, expected)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)  # mlflow.set_tracking_uri would outlive the test
    model = mlflow.pyfunc.load_model("models:/synthetic-decoder-b@best")
    np.testing.assert_array_equal(model.predict(video), expected)
    assert "mlflow models predict" in mlflow.MlflowClient().get_model_version("synthetic-decoder-b", "1").description
