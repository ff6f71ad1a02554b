"""Optical flow between two frames, for metrics: OpenCV's DIS on the CPU, torchvision's RAFT where weights are given.

Shapes: H × W pixels; a flow (H, W, 2) holds (x, y) from a pixel of the frame before to where it is in this one.
"""

from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.common.errors import UnfitError
from harness.data.pictures import shown

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Field = NDArray[np.float32]  # (H, W, 2)

DIS = "dis"
RAFT = ("raft_small", "raft_large")
SMALLEST, MULTIPLE = 128, 8  # pixels of a side that RAFT takes


class Flow:
    """The flow into a video's frames; frames come in order. Computed where it is asked for, once a frame and method."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._frames: tuple[Image | None, Image | None] = (None, None)
        self._fields: dict[tuple[str, str | None], Field] = {}

    def take(self, image: Image) -> None:
        """Go on to the next frame."""
        self._frames = (self._frames[1], image)
        self._fields = {}

    def __call__(self, method: str, weights: str | None = None) -> Field:
        """Return the flow from the frame before to this one. Raise UnfitError where the method is not to be had."""
        before, now = self._frames
        assert before is not None
        assert now is not None
        key = method, weights
        if key not in self._fields:
            estimate = dis if method == DIS else Raft.of(method, weights, self._device)
            self._fields[key] = estimate(before, now)
        return self._fields[key]


def check(method: str, weights: str | None) -> None:
    """Raise UnfitError where a flow cannot be computed here."""
    if method == DIS:
        opencv()
    else:
        Raft.of(method, weights, torch.device("cpu"))


def opencv() -> Any:
    """Return OpenCV. Raise UnfitError without it."""
    try:
        import cv2
    except ImportError as error:
        raise UnfitError(
            "the optical flow 'dis' needs OpenCV: pip install 'memory-vsp-harness[flow]', or take RAFT with "
            "metric.temporal_consistency.flow=raft_small and its weights"
        ) from error
    return cv2


def dis(before: Image, now: Image) -> Field:
    """Return the flow by DIS, preset medium (Kroeger et al., ECCV 2016)."""
    cv2 = opencv()
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, now)]
    field: Field = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    return field


class Raft:
    """torchvision's RAFT with weights of a file (Teed and Deng, ECCV 2020)."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network, self._device = network.to(device).eval(), device

    @classmethod
    @cache
    def of(cls, method: str, weights: str | None, device: torch.device) -> "Raft":
        """Return the network on a device. Raise UnfitError for weights that are not there or do not fit."""
        from torchvision.models import optical_flow

        if method not in RAFT:
            raise UnfitError(f"optical flow '{method}': choose {DIS}, {' or '.join(RAFT)}")
        if weights is None:
            raise UnfitError(
                f"the optical flow '{method}' needs weights: set metric.temporal_consistency.weights=FILE, "
                "torchvision's state dict, for example raft_small_C_T_V2-01064c6d.pth"
            )
        path = Path(weights).expanduser()
        network: nn.Module = getattr(optical_flow, method)(weights=None)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            words = (str(error).splitlines() or [type(error).__name__])[0]
            why = "not a state dict written by torch.save" if isinstance(error, UnpicklingError) else words.rstrip(":")
            raise UnfitError(f"{shown(path)}: not torchvision's weights for {method} ({why})") from error
        return cls(network, device)

    @torch.inference_mode()
    def __call__(self, before: Image, now: Image) -> Field:
        """Return the flow; a frame whose sides RAFT does not take is padded by its border, which is cut off again."""
        height, width = before.shape[:2]
        sides = [max(SMALLEST, -(-side // MULTIPLE) * MULTIPLE) for side in (height, width)]
        images = [self._normalised(image, sides) for image in (before, now)]
        field: Tensor = self._network(*images)[-1][0, :, :height, :width]
        return field.permute(1, 2, 0).float().cpu().numpy()

    def _normalised(self, image: Image, sides: list[int]) -> Tensor:
        whole = torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None].float() / 127.5 - 1  # (1, 3, H, W)
        height, width = image.shape[:2]
        return F.pad(whole, (0, sides[1] - width, 0, sides[0] - height), mode="replicate")
