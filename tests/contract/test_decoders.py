"""Every file in models/decoders through the harness: what tests/unit/models does not see of it.

That a decoder learns, that its weights file holds all of it, and that frames of a batch do not see one another.
"""

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiny_jobs
import torch
from safetensors.torch import load_file

from harness.config import plugins
from harness.engine import build, jobs, train
from harness.jobdir.paths import JobDir
from harness.jobdir.replay import Replay
from models.contract import Decoder
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
    model = build.segmentor(jobs.read(folder), tiny_jobs.DATA["classes"])
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
def test_the_loss_falls_on_synthetic_videos(name: str, trained: dict[str, Path]) -> None:
    loss = list(Replay.of(JobDir(trained[name]).events_file).losses.values())
    assert len(loss) == ITERATIONS
    assert sum(loss[-4:]) / 4 < 0.97 * sum(loss[:4]) / 4


@EVERY
def test_training_reaches_every_weight(name: str, trained: dict[str, Path]) -> None:
    start, end = model_of(trained[name], weights=False), model_of(trained[name])
    still = [key for key, value in end.named_parameters() if torch.equal(value, dict(start.named_parameters())[key])]
    assert still == []


@EVERY
def test_the_weights_file_holds_all_that_a_prediction_needs(name: str, trained: dict[str, Path]) -> None:
    one, two = model_of(trained[name]), model_of(trained[name])
    assert torch.equal(predict(one, images()), predict(two, images()))
    state = copy.deepcopy(one.state_dict())
    other = model_of(trained[name], weights=False)
    assert not torch.equal(predict(one, images()), predict(other, images()))
    other.load_state_dict(state)
    prior = torch.randint(0, 4, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    for given in (None, prior):
        assert torch.equal(predict(one, images(), given), predict(other, images(), given))


@EVERY
def test_prediction_changes_nothing(name: str, trained: dict[str, Path]) -> None:
    model = model_of(trained[name])
    before = copy.deepcopy(model.state_dict())
    predict(model, images())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@EVERY
def test_frames_of_a_batch_do_not_see_one_another(name: str, trained: dict[str, Path]) -> None:
    model, batch = model_of(trained[name]), images(3)
    whole = predict(model, batch)
    for index in range(3):
        torch.testing.assert_close(
            predict(model, batch[index : index + 1]), whole[index : index + 1], rtol=1e-4, atol=1e-5
        )


@EVERY
def test_a_void_mask_is_a_mask(name: str, trained: dict[str, Path]) -> None:
    found = predict(model_of(trained[name]), images(), torch.full((2, 32, 32), 255))
    assert torch.isfinite(found).all()


@EVERY
def test_a_prediction_exists_before_any_training(name: str, trained: dict[str, Path]) -> None:
    found = predict(model_of(trained[name], weights=False), images())
    assert found.shape == (2, tiny_jobs.DATA["classes"], 8, 8)
    assert torch.isfinite(found).all()


@EVERY
def test_every_parameter_has_a_rate_of_its_own(name: str, trained: dict[str, Path]) -> None:
    trainer = train.Trainer(jobs.read(trained[name]), tiny_jobs.DATA["classes"], tiny_jobs.ALONE)
    trainer.start(None)
    grouped = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(list(trainer.model.parameters()))
    assert isinstance(trainer.model.decoder, Decoder)
