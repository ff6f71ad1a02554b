"""Cell gate: the frame-difference decoder with one gate a cell instead of one a channel.

An example of a variant that is made of files beside it: the decoder is a subclass of another plug-in's, the gate comes
from a helper. An edit of either shows as `code changed` on the results of this decoder.
"""

from dataclasses import dataclass, field

from ._gates import CellGate
from .frame_difference import Decoder as FrameDifference

VERSION = 1


# Config stands in the plug-in's own file: planning reads it without importing anything.
@dataclass(frozen=True)
class Config:
    """As frame_difference has them."""

    channels: int = field(default=32, metadata={"range": "[1, inf)"})
    aux_channels: int = field(default=16, metadata={"range": "[1, inf)"})
    step: int = field(default=1, metadata={"range": "[1, inf)"})


class Decoder(FrameDifference):
    """frame_difference with another gate."""

    def __init__(self, channels: tuple[int, ...], deepest_channels: int, num_classes: int, config: Config) -> None:
        super().__init__(channels, deepest_channels, num_classes, config)
        self.gate = CellGate(config.channels)
