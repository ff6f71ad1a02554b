"""A gate for decoders of this folder. The name begins with _, so the file is no decoder; plug-ins import it."""

from torch import Tensor, nn

from models.layers.head import conv


class CellGate(nn.Module):
    """One number in 0..1 for each cell, shared by all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = conv(channels, 1, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate of x (B, D, h, w).  # (B, 1, h, w)"""
        gate: Tensor = self.score(x).sigmoid()
        return gate
