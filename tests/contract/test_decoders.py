"""Every file in models/decoders keeps its contract as `harness check` reads it; and what that does not see.

That training reaches every weight, that each has a rate, and that frames of a batch do not see one another. Ranks and
resuming are tests/unit/engine's.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file

from harness.config import plugins
from harness.engine import build, train
from harness.plan.spec import TrainSpec, read_as
from harness.tools import check
from models.segmentor import Segmentor

NAMES = plugins.names("decoders")
EVERY = pytest.mark.parametrize("name", NAMES)
ITERATIONS = 20


def narrow(name: str) -> dict[str, Any]:
    """The decoder's own defaults with every width cut to 8."""
    if name in tiny_jobs.HEADS:
        return tiny_jobs.HEADS[name]
    config: Any = plugins.read_schema(plugins.find("decoders", name)).config
    return {f.name: 8 for f in fields(config) if type(f.default) is int and f.default > 8}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One short training of every decoder, made when it is first asked for."""
    root = tmp_path_factory.mktemp("decoders")

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            options = {"iterations": ITERATIONS, "lr": 5e-3, "layer_decay": 1.0, "warmup": 1, "checkpoint_every": 1000}
            job = tiny_jobs.training(root, f"{len(self):016d}", name, narrow(name), **options)
            self[name] = tiny_jobs.train_now(job)
            return self[name]

    return Made()


def model_of(folder: Path, weights: bool = True) -> Segmentor:
    model = build.segmentor(read_as(folder, TrainSpec), tiny_jobs.DATA["classes"])
    if weights:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()


def predict(model: Segmentor, images: torch.Tensor, prior: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        features = model.features(images)
        past = tuple(model.features(images.roll(offset, 3)) for offset in model.decoder.past)
        return model.decoder.predict(model.decoder.encode(features, past), prior)


def images(batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, 32, 32), generator=torch.Generator().manual_seed(1)).float()


def test_the_folder_is_found() -> None:
    assert {"upernet", "decoder_a", "decoder_b"} <= set(NAMES)


@EVERY
def test_it_keeps_the_contract(name: str) -> None:
    elsewhere = ("two ranks match one process", "a resumed training is bit-identical")
    checks = {one.what: one for one in check.checks("decoders", name, leave_out=elsewhere)}
    assert {what: one.text for what, one in checks.items() if not one.passed} == {}
    assert len(checks) == 17
    assert "GFLOP" in checks["its cost"].text


@EVERY
def test_training_reaches_every_weight(name: str, trained: dict[str, Path]) -> None:
    start, end = model_of(trained[name], weights=False), model_of(trained[name])
    still = [key for key, value in end.named_parameters() if torch.equal(value, dict(start.named_parameters())[key])]
    assert still == []


@EVERY
def test_frames_of_a_batch_do_not_see_one_another(name: str, trained: dict[str, Path]) -> None:
    model, batch = model_of(trained[name]), images(3)
    whole = predict(model, batch)
    for index in range(3):
        torch.testing.assert_close(
            predict(model, batch[index : index + 1]), whole[index : index + 1], rtol=1e-4, atol=1e-5
        )


@EVERY
def test_every_parameter_has_a_rate_of_its_own(name: str, trained: dict[str, Path]) -> None:
    trainer = train.Trainer(read_as(trained[name], TrainSpec), tiny_jobs.DATA["classes"], tiny_jobs.ALONE)
    trainer.start(None)
    grouped = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(list(trainer.model.parameters()))
