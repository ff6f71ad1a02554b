"""One member at work on one video: what does not depend on P is computed once, and every stage is read off it.

Stage 0 takes P as the decoder asks: the member's own mask of the frame before (Decoder A), or none. Stage s takes the
member's own mask of stage s - 1 of the same frame, fused over all windows and views first (science §5, A26, A27).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from harness.engine import inference, runtime
from harness.engine.inference import Fusion, Geometry, Tile, View
from models.contract import Features
from models.segmentor import Segmentor

CACHE_LIMIT = 8 * 2**30  # bytes of caches held a frame; windows beyond it are encoded again for every stage


class Stages:
    """Masks of a video's frames, which must come in order; `start` before each video."""

    def __init__(self, model: Segmentor, geometry: Geometry, precision: str, device: torch.device) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.geometry = geometry
        self.precision = precision
        self.device = device
        encoder: Any = model.encoder
        self.fit = inference.Fit(encoder.size, encoder.multiple)
        self.start()

    def start(self) -> None:
        """Forget the video before."""
        self._index = -1
        self._size: tuple[int, int] | None = None
        self._previous: Tensor | None = None  # (H, W), stage 0's mask of the frame before
        self._past: dict[int, dict[int, Features]] = {}  # frame -> tile -> features, as far back as the decoder reads

    @torch.inference_mode()
    def probabilities(self, image: Tensor, last: int) -> Iterator[Tensor]:
        """Class probabilities (K, H, W) of stages 0 to `last` of the next frame, image (1, 3, H, W) raw RGB.

        Take all of them before the next frame: stage 0's mask is carried over. Raises UnfitError for a window that
        the encoder cannot take.
        """
        height, width = image.shape[-2:]
        if self._size != (height, width):  # a frame of another size cannot be read against those before it
            self.start()
            self._size = (height, width)
        self._index += 1
        tiles = inference.tiles(height, width, self.geometry, self.fit)
        views = inference.views(height, width, self.geometry)
        caches = Caches(self._encoder(image.to(self.device), tiles, views), keep=last > 0)
        prior = self._previous
        for stage in range(last + 1):
            fusion = Fusion(height, width, self.geometry)
            seen = None if prior is None else [inference.see_mask(prior, view) for view in views]
            for index, tile in enumerate(tiles):
                given = None if seen is None else inference.cut_mask(seen[tile.view], tile)
                with runtime.autocast(self.device, self.precision):
                    logits = self.model.decoder.predict(caches[index], given)
                fusion.add(tile, logits)
            fused = fusion.probabilities()
            prior = inference.labels(fused)
            if stage == 0 and self.model.decoder.prior == "previous":
                self._previous = prior
            yield fused
        self._forget()

    def _encoder(self, image: Tensor, tiles: list[Tile], views: list[View]) -> Callable[[int], Any]:
        """A function from a tile's index to its cache; features are computed once even if the cache is not."""
        seen = [inference.see(image.float(), view) for view in views]
        now: dict[int, Features] = {}
        offsets = self.model.decoder.past
        if offsets:
            self._past[self._index] = now

        def encode(index: int) -> Any:
            with runtime.autocast(self.device, self.precision):
                features = now.get(index)
                if features is None:
                    tile = tiles[index]
                    features = self.model.features(inference.cut(seen[tile.view], tile))
                if offsets:
                    now[index] = features
                # before the first frame there is the first frame (science §2)
                past = tuple(self._past[max(self._index + offset, 0)][index] for offset in offsets)
                return self.model.decoder.encode(features, past)

        return encode

    def _forget(self) -> None:
        """Drop features that no later frame reads."""
        oldest = self._index + 1 + min(self.model.decoder.past, default=0)
        for index in [index for index in self._past if index < oldest]:
            del self._past[index]


class Caches:
    """A frame's caches by tile: made on first use, kept for the later stages as far as CACHE_LIMIT allows."""

    def __init__(self, encode: Callable[[int], Any], keep: bool, limit: int = CACHE_LIMIT) -> None:
        self._encode = encode
        self._room = limit if keep else 0
        self._kept: dict[int, Any] = {}

    def __getitem__(self, index: int) -> Any:
        if index in self._kept:
            return self._kept[index]
        cache = self._encode(index)
        needed = nbytes(cache)
        if needed <= self._room:
            self._room -= needed
            self._kept[index] = cache
        return cache


def nbytes(value: Any) -> int:
    """Bytes of all tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    return sum(map(nbytes, value)) if isinstance(value, tuple | list) else 0
