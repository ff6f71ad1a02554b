"""What a plan can know before anything is trained: windows, crops, batches, memory and weights, each in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from vspw_files import make_vspw

from harness import cli
from harness.common.errors import UnfitError, UsageError
from harness.config.compose import compose
from harness.config.settings import RunOptions
from harness.engine import preflight as child
from harness.launch import preflight, runner
from harness.launch.launchers import inline
from harness.plan import plan
from harness.plan.plan import Plan
from harness.plan.spec import to_json
from harness.tools.doctor import _children, _weights
from models.encoders import beit

SMALL = ("train.epochs=1", "train.frames_per_video=1", "train.batch=2", "train.crop=32", "train.short_side=32")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's answers without the seconds that a process takes; one test asks the child itself."""

    def ask(module: str, kind: type[preflight.Problem], text: str) -> Callable[[], preflight.Problem]:
        question = json.loads(text)
        memory = child.available() if question["here"] else float("inf")
        jobs = [child.read_train(content) for content in question["jobs"]]
        problems = [child.problem(job, question["classes"], question["ranks"], memory) for job in jobs]
        return lambda: kind(problem=next(filter(None, problems), ""))

    monkeypatch.setattr(preflight, "ask", ask)
    preflight.ask_child.cache_clear()


def make(root: Path, *words: str) -> Plan:
    return plan.make(["ablation_ensemble"], compose("demo", [*SMALL, *words]), root)


def refused(root: Path, *words: str) -> str:
    made = make(root, *words)
    with pytest.raises(UnfitError) as caught:
        runner.missing(made, RunOptions(offline=True))
    assert str(caught.value).isprintable()
    assert not any((root / "jobs").glob("*/*")), "nothing was begun"
    return str(caught.value)


def test_the_demo_is_tried_and_fits(tmp_path: Path) -> None:
    assert len(runner.missing(make(tmp_path), RunOptions(offline=True))) == len(make(tmp_path).jobs)


def test_windows_and_crops_that_the_encoder_cannot_take(tmp_path: Path) -> None:
    assert "evaluate.window=48: the encoder accepts only 32" in refused(tmp_path, "evaluate.window=48")
    assert "multiple of 32, not 48" in refused(tmp_path, "train.crop=48")
    assert "multiple of 32, not 33" in refused(tmp_path, "train.crop=33", "encoder.name=timm_pyramid")


def test_a_window_that_any_multiple_makes_fit(tmp_path: Path) -> None:
    words = ("encoder.name=timm_pyramid", "evaluate.window=48")
    assert runner.missing(make(tmp_path, *words), RunOptions(offline=True))


def test_a_backbone_that_fails_only_when_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self, images):
        raise RuntimeError("The size of tensor a (7) must match the size of tensor b (8)")

    monkeypatch.setattr(beit.Encoder, "forward", forward)
    assert "train.crop=32: the encoder does not accept it (The size of tensor a" in refused(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [(["train.batch=1"], "train.batch=1"), (["train.batch=4", "train.micro_batch=1"], "train.micro_batch=1")],
)
def test_batch_norm_of_one_image_is_refused_by_the_plan(tmp_path: Path, words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=f"{says}: batch norm needs .* at least 2 images"):
        make(tmp_path, *words)


def test_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "train.crop=16384")
    assert "train.crop=16384: a rank of 2 images needs at least" in message
    assert "lower train.crop" in message
    job = make(tmp_path).jobs[0].spec()
    assert child.problem(job, 8, 1, float("inf")) == ""
    assert "GiB" in child.problem(job, 8, 1, 1e5)
    assert child.problem(job, 8, 1, 1e9) == ""


def test_weights_that_do_not_fit_or_are_not_finite(tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in beit.Encoder(beit.Config(), 32).backbone.state_dict().items()}
    name, path = "blocks.0.mlp.fc1.bias", tmp_path / "w.safetensors"
    for wrong, says in (
        (torch.zeros(3), f"{name} has the shape (3,)"),
        (torch.full_like(state[name], float("nan")), f"{name} has 256 numbers of 256 that are not finite"),
    ):
        save_file(state | {name: wrong}, path)
        assert says in refused(tmp_path / "root", f"encoder.beit.weights={path}")
        preflight.ask_child.cache_clear()
    save_file(state, path)
    assert runner.missing(make(tmp_path / "root", f"encoder.beit.weights={path}"), RunOptions(offline=True))


def test_the_child_is_asked_by_run_and_its_exit_code_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    preflight.ask_child.cache_clear()
    data = make_vspw(tmp_path / "d", videos={"train": 4, "val": 2, "test": 1}, frames=4, size=(32, 40))
    words = [f"data.vspw.root={data}", "data.name=vspw", *SMALL, "evaluate.window=48", "--root", str(tmp_path / "root")]
    assert cli.main(["run", "ablation_ensemble", "--offline", *words]) == 3
    assert "evaluate.window=48: the encoder accepts only 32" in capsys.readouterr().err
    assert not any((tmp_path / "root" / "jobs").glob("*/*"))


def test_a_child_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        preflight, "ask", lambda module, kind, question: lambda: kind(broken="libcudart.so: cannot open")
    )
    assert "libcudart.so: cannot open; run `harness doctor`" in refused(tmp_path)


def test_a_worker_that_dies_of_the_question_is_said(tmp_path: Path) -> None:
    launcher = inline.Launcher(1, tmp_path / "logs")
    try:
        answer = launcher.preflight(json.dumps({"jobs": [{}], "classes": 8, "ranks": 1, "here": False}))()
    finally:
        launcher.close()
    assert "KeyError: 'kind'" in answer.broken
    assert f"(see {tmp_path / 'logs' / 'worker.log'})" in answer.broken


def test_the_doctor_says_the_same_of_a_window(tmp_path: Path) -> None:
    config = compose("demo", ["evaluate.window=48"])
    found = list(_weights.examine(config, tmp_path, _children.networks(config, [])()))
    assert [(one.text, one.remedy) for one in found if one.fit is False] == [
        ("evaluate.window=48: the encoder accepts only 64", "set evaluate.window=64")
    ]


def test_what_is_asked_is_json(tmp_path: Path) -> None:
    assert json.dumps(to_json(make(tmp_path).jobs[0].spec()))
