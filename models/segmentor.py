"""An encoder and a decoder as one network that eats raw RGB frames.

Shapes: B images, H × W pixels.
"""

from types import ModuleType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from models.contract import Decoder, Features, Output, Target, void

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB in 0..255, as the segmentation toolboxes have it
IMAGENET_STD = (58.395, 57.12, 57.375)


class Encoder(Protocol):
    """The class Encoder of a file in models/encoders; its constructor takes (config, size)."""

    channels: tuple[int, ...]  # of the four levels
    deepest_channels: int
    size: int | None  # the only side of a window that it takes; None: any multiple
    multiple: int  # a window's sides are multiples of this
    num_layers: int  # depth for the layer-wise decay of the learning rate; the pyramid's id is one more
    # optional: mean, std: tuple[float, float, float] of its images, RGB in 0..255; without them ImageNet's

    def layer_id(self, parameter_name: str) -> int:
        """Depth of a parameter, 0 at the input, num_layers + 1 for what is trained from scratch."""
        ...

    def load_pretrained(self) -> str | None:
        """Fill in the weights named by the config, at a fresh start only; what was done to find them, in a line."""
        ...


class Segmentor(nn.Module):
    """`forward` is the training step's; for inference take `features`, then `decoder.encode` and `decoder.predict`."""

    mean: Tensor
    std: Tensor
    frozen: frozenset[str] = frozenset()  # modules that stay in eval mode while the others train, by name

    def __init__(self, encoder: nn.Module, decoder: Decoder, num_classes: int = 0) -> None:
        super().__init__()
        self.void = void(num_classes)
        self.encoder = encoder
        self.decoder = decoder
        self.register_buffer("mean", _colour(encoder, "mean", IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", _colour(encoder, "std", IMAGENET_STD), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but the frozen ones."""
        super().train(mode)
        for name, module in self.named_modules() if mode and self.frozen else ():
            if name in self.frozen:
                module.eval()
        return self

    def features(self, images: Tensor) -> Features:
        """Encode images (B, 3, H, W), uint8 or float in 0..255, normalised as the encoder states."""
        features: Features = self.encoder((images.to(self.mean.dtype) - self.mean) / self.std)
        return features

    def forward(self, images: Tensor, past_images: tuple[Tensor, ...], prior: Tensor | None, target: Target) -> Output:
        """One training step: `past_images` holds one batch for each offset of `decoder.past`, oldest first.

        Earlier frames are encoded first, in eval mode and without gradient unless the decoder asks for it, so they
        leave no trace in batch statistics.
        """
        if len(past_images) != len(self.decoder.past):
            raise ValueError(f"the decoder reads {len(self.decoder.past)} earlier frames, not {len(past_images)}")
        if self.decoder.past_grad:
            past = tuple(self.features(image) for image in past_images)
        else:
            past = self._past_features(past_images)
        output: Output = self.decoder(self.features(images), past, prior, target)
        return output

    @torch.no_grad()
    def _past_features(self, images: tuple[Tensor, ...]) -> tuple[Features, ...]:
        modes = [(module, module.training) for module in self.encoder.modules()]
        self.encoder.eval()
        try:
            return tuple(self.features(image) for image in images)
        finally:
            for module, training in modes:
                module.training = training


def _colour(encoder: nn.Module, name: str, default: tuple[float, float, float]) -> Tensor:
    """Return the encoder's mean or std of the three channels, RGB in 0..255.  # (3, 1, 1)"""
    return torch.tensor(getattr(encoder, name, default))[:, None, None]


def build(
    encoder: ModuleType, encoder_config: Any, decoder: ModuleType, decoder_config: Any, num_classes: int, crop: int
) -> Segmentor:
    """The network made of two plug-in modules and their own configs, for windows of side `crop`; weights are random.

    Raises ValueError where the encoder does not take windows of this size.
    """
    backbone = encoder.Encoder(encoder_config, crop)
    head = decoder.Decoder(backbone.channels, backbone.deepest_channels, num_classes, decoder_config)
    return Segmentor(backbone, head, num_classes)
