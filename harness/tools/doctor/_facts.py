"""Answers of the doctor's children as values; they travel as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Package:
    """An installed package, or the error of its import."""

    version: str = ""
    cuda: str = ""  # that it was built with; empty: for the CPU
    error: str = ""


@dataclass(frozen=True)
class Device:
    """A GPU as torch has it."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes
    bf16: bool  # without emulation
    error: str = ""  # of a first computation


@dataclass(frozen=True)
class Machine:
    """Packages and devices; `broken` says why there is no answer."""

    packages: Mapping[str, Package] = field(default_factory=dict)
    nms: str = ""  # error of an operator of torchvision's own library
    hip: str = ""  # that torch was built with
    archs: tuple[str, ...] = ()  # that torch has code for
    error: str = ""  # of torch's initialisation of CUDA
    devices: tuple[Device, ...] = ()
    broken: str = ""

    @property
    def torch(self) -> Package | None:
        """None where it does not import."""
        torch = self.packages.get("torch")
        return torch if torch and torch.version else None


@dataclass(frozen=True)
class Question:
    """Which networks to build, and which files to read."""

    encoder: str
    options: Mapping[str, Any]  # the encoder's
    plugins: tuple[str, ...]
    crop: int
    classes: int
    files: Mapping[str, str] = field(default_factory=dict)  # key of the configuration -> path
    decoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> options
    window: int | None = None  # of evaluations; None: the crop


@dataclass(frozen=True)
class WeightsFile:
    """Contents of a file of weights, or why it cannot be read."""

    error: str = ""
    imports: str = ""  # what a refused pickle would import
    tensors: int = 0
    bytes: int = 0
    layout: str = ""
    classes: int | None = None  # of a checkpoint of ours
    self_supervised: bool = False


@dataclass(frozen=True)
class HubWeights:
    """Pretrained weights on the hub."""

    id: str
    cached: bool  # on this machine


@dataclass(frozen=True)
class Networks:
    """Sizes of the networks and their weights; `broken` says why there is no answer, `error` why nothing was built."""

    files: Mapping[str, WeightsFile] = field(default_factory=dict)
    encoder: int = 0  # parameters
    parameters: Mapping[str, int] = field(default_factory=dict)  # by decoder, with the encoder's
    window: str = ""  # why the encoder cannot take the evaluation's windows
    misfit: str | None = None  # why the files do not fill the encoder, empty where they do; None: not tried
    note: str = ""  # what the encoder says of the files that it took
    hub: HubWeights | None = None
    error: str = ""
    broken: str = ""
