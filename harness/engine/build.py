"""From a job's plain description to the objects it names."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from harness.common.errors import UnfitError
from harness.config import plugins
from harness.data.contract import Dataset
from harness.data.hold_out import HoldOut
from models import segmentor as models
from models.segmentor import Segmentor


def dataset(job: Mapping[str, Any]) -> Dataset:
    """The job's data set, with the split `dev` where it holds a part of `train` out."""
    module = plugins.load("datasets", job["data"]["name"], job["plugins"])
    made: Dataset = module.Dataset(_config(module, job["data"]))
    share = job["data"].get("hold_out")
    return made if share is None else HoldOut(made, share)


def segmentor(job: Mapping[str, Any], num_classes: int) -> Segmentor:
    """The network of a training job, weights random. Raises UnfitError where encoder and crop do not go together."""
    encoder = plugins.load("encoders", job["encoder"]["name"], job["plugins"])
    decoder = plugins.load("decoders", job["decoder"]["name"], job["plugins"])
    configs = _config(encoder, job["encoder"]), _config(decoder, job["decoder"])
    try:
        return models.build(encoder, configs[0], decoder, configs[1], num_classes, job["train"]["crop"])
    except ValueError as error:
        raise UnfitError(f"encoder {job['encoder']['name']}: {error}") from error


def load_pretrained(model: Segmentor, job: Mapping[str, Any]) -> str:
    """Fill in the encoder's pre-trained weights; what was done to find them, in a line, or nothing.

    Raises UnfitError where they are absent or do not fit.
    """
    encoder: Any = model.encoder
    try:
        note: str | None = encoder.load_pretrained()
        return note or ""
    except (OSError, ValueError) as error:
        raise UnfitError(f"encoder {job['encoder']['name']}: {error}") from error


def _config(module: ModuleType, section: Mapping[str, Any]) -> Any:
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in section["config"].items()}
    return module.Config(**tuples)  # JSON has no tuples
