"""From a job's spec to the objects it names."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.common.errors import UnfitError
from harness.config import plugins
from harness.config.compose import DataSpec, PluginSpec
from harness.data.contract import Dataset
from harness.data.hold_out import HoldOut
from harness.engine import group_norm, warm_start
from harness.plan.spec import EvaluateSpec, TrainSpec
from harness.results import records
from harness.results.metric import Counter
from models import segmentor as models
from models.segmentor import Segmentor

Module = TypeVar("Module", bound=nn.Module)
DRAWS = {Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}
SCALINGS = {Tensor.erfinv_, Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.clamp_}  # of what was drawn


class _Undrawn(TorchFunctionMode):
    """Leaves parameters that would be drawn as memory was: BEiT-Large's take seconds, and loaded weights replace them.

    All that is not random gets its values: constants, buffers, and what is computed from them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._undrawn: dict[int, nn.Parameter] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the parameter that `func` would draw or scale, or what it returns."""
        parameter = args[0] if args else (kwargs or {}).get("tensor")
        if isinstance(parameter, nn.Parameter) and (
            func in DRAWS or (func in SCALINGS and id(parameter) in self._undrawn)
        ):
            self._undrawn[id(parameter)] = parameter
            return parameter
        return func(*args, **(kwargs or {}))


def undrawn(make: Callable[[], Module]) -> Module:
    """Return a module to load weights into; drawn after all where its constructor fails over values that are not."""
    try:
        with _Undrawn():
            return make()
    except Exception:
        return make()


def dataset(data: DataSpec, folders: plugins.Folders = ()) -> Dataset:
    """Return the data set, with the split `dev` where it holds a part of `train` out."""
    module = plugins.load("datasets", data.name, folders)
    whole: Dataset = module.Dataset(_config(module, data))
    return whole if data.hold_out is None else HoldOut(whole, data.hold_out)


def own_metrics(job: EvaluateSpec, num_classes: int) -> dict[str, Counter]:
    """Return an evaluation's metrics with counts of their own, anew for a video."""
    every: Any = {name: records.maker(name, options, job.plugins)(num_classes) for name, options in job.metrics.items()}
    counters: dict[str, Counter] = every
    return counters


def segmentor(job: TrainSpec, num_classes: int, drawn: bool = True) -> Segmentor:
    """Return the network of a training, its weights random, or not even drawn where others are loaded into it.

    Raise UnfitError where encoder and crop, or decoder and `train.group_norm`, do not go together.
    """
    encoder = plugins.load("encoders", job.encoder.name, job.plugins)
    decoder = plugins.load("decoders", job.decoder.name, job.plugins)
    configs = _config(encoder, job.encoder), _config(decoder, job.decoder)
    try:
        make = partial(models.build, encoder, configs[0], decoder, configs[1], num_classes, job.train.crop)
        model = make() if drawn else undrawn(make)
    except ValueError as error:
        raise UnfitError(f"encoder {job.encoder.name}: {error}") from error
    group_norm.replace_batch_norm(model.decoder, job.train.group_norm)
    return model


def load_pretrained(model: Segmentor, encoder: str) -> str:
    """Fill in the pre-trained weights of the encoder of that name; what was done to find them, in a line, or nothing.

    Raise UnfitError where they are absent or do not fit.
    """
    network: Any = model.encoder  # models.segmentor.Encoder
    try:
        note: str | None = network.load_pretrained()
        return note or ""
    except (OSError, ValueError) as error:
        raise UnfitError(f"encoder {encoder}: {error}") from error


def warm_start_of(job: TrainSpec, model: Segmentor) -> str:
    """Fill in the weights that `train.start` names; what was left out, in a line. Raise UnfitError."""
    if job.train.start is None:
        return ""
    digest = job.identity.get("start", {}).get("content", {}).get("train.start")
    return warm_start.load(model, job.train.start, digest)


def _config(module: ModuleType, plugin: PluginSpec) -> Any:
    return module.Config(**plugin.config)
