"""One member at work on one video: what does not depend on P is computed once, and every stage is read off it.

Stage 0 takes P as the decoder asks: the member's own mask of the frame before (Decoder A), or none. Stage s takes the
member's own mask of stage s - 1 of the same frame, fused over all windows and views first (DEVIATIONS.md, A26, A27).

The exact early exit: a window whose P says the same as the stage before's (`prior_key`: for A and B the class counts on
R's grid, since Eqs 5-6 know no more of P) has that stage's logits, which are taken again and the window counted.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.engine import runtime, sliding_window
from harness.engine.checkpoint import StateDict
from harness.engine.sliding_window import Fusion, Geometry, Tile, View
from models.contract import Features
from models.segmentor import Segmentor

LIMIT = 8 * 2**30  # bytes of caches and logits held a frame; windows beyond it are encoded again for every stage


class Prediction(NamedTuple):
    """A member's prediction of a frame for one P."""

    probabilities: Tensor  # (K, H, W)
    mask: Tensor  # (H, W) int64, their argmax
    windows: int
    exited: int | None  # windows whose P said what the stage before's had; None where no stage is before
    seconds: float = 0.0  # since the prediction before; the first one's encodes the frame


class Stages:
    """Masks of a video's frames, which must come in order; `start` before each video."""

    def __init__(self, model: Segmentor, geometry: Geometry, precision: str, device: torch.device) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.geometry = geometry
        self.precision = precision
        self.device = device
        encoder: Any = model.encoder
        self.accepts = sliding_window.WindowSize(encoder.size, encoder.multiple)
        self.start()

    def start(self) -> None:
        """Forget the video before."""
        self._index = -1
        self._size: tuple[int, int] | None = None
        self._previous: Tensor | None = None  # (H, W), stage 0's mask of the frame before
        self._past: dict[int, dict[int, Features]] = {}  # frame -> tile -> features, as far back as the decoder reads

    def state_dict(self) -> StateDict:
        """Return what the next frame needs of those before: a video can be gone on with by `load_state_dict`."""
        return {"index": self._index, "size": self._size, "previous": self._previous, "past": self._past}

    def load_state_dict(self, state: StateDict) -> None:
        """Resume the video whose state was saved. Raise KeyError if it is no such state."""
        self._index, self._size = state["index"], state["size"]
        self._previous, self._past = state["previous"], state["past"]

    @torch.inference_mode()
    def predict(self, image: Tensor, last: int, priors: Sequence[Tensor] = ()) -> Iterator[Prediction]:
        """Yield stages 0 to `last` of the next frame, image (1, 3, H, W) raw RGB; then one for each mask (H, W) as P.

        Take all of them before the next frame: stage 0's mask is carried over. Raise UnfitError for a window that
        the encoder cannot take.
        """
        height, width = image.shape[-2:]
        if self._size != (height, width):  # a frame of another size cannot be read against those before it
            self.start()
            self._size = (height, width)
        self._index += 1
        begun = runtime.seconds(self.device)
        tiles = sliding_window.tiles(height, width, self.geometry, self.accepts)
        views = sliding_window.views(height, width, self.geometry)
        room = LIMIT if last + len(priors) > 0 else 0
        windows = Windows(self.model.decoder, self._encoder(image.to(self.device), tiles, views), room)
        prior = self._previous
        for stage in range(last + 1):
            prediction = self._read(windows, prior, tiles, views)
            prior = prediction.mask
            if stage == 0 and self.model.decoder.prior == "previous":
                self._previous = prior
            prediction = prediction._replace(seconds=runtime.seconds(self.device) - begun)
            yield prediction if stage else prediction._replace(exited=None)
            begun = runtime.seconds(self.device)
        for mask in priors:
            prediction = self._read(windows, mask.to(self.device), tiles, views)._replace(exited=None)
            yield prediction._replace(seconds=runtime.seconds(self.device) - begun)
            begun = runtime.seconds(self.device)
        self._forget()

    def see(self, image: Tensor) -> None:
        """Remember the next frame, image (1, 3, H, W) raw RGB, whose own masks nobody needs."""
        for _ in self.predict(image, 0):
            pass

    def _read(self, windows: "Windows", prior: Tensor | None, tiles: list[Tile], views: list[View]) -> Prediction:
        """Return the frame for one P (H, W), fused over all windows and views."""
        assert self._size is not None
        fusion, exited = Fusion(*self._size, self.geometry), 0
        masks = None if prior is None else [sliding_window.see_mask(prior, view) for view in views]
        for index, tile in enumerate(tiles):
            part = None if masks is None else sliding_window.cut_mask(masks[tile.view], tile, self.model.void)
            with runtime.autocast(self.device, self.precision):
                logits, same = windows.predict(index, part)
            fusion.add(tile, logits)
            exited += same
        fused = fusion.probabilities()
        return Prediction(fused, sliding_window.labels(fused), len(tiles), exited)

    def _encoder(self, image: Tensor, tiles: list[Tile], views: list[View]) -> Callable[[int], Any]:
        """Return a function from a tile's index to its cache; features that later frames read are computed once."""
        images = [sliding_window.see(image.float(), view) for view in views]
        now: dict[int, Features] = {}
        offsets = self.model.decoder.past
        if offsets:
            self._past[self._index] = now

        def encode(index: int) -> Any:
            if index not in now:
                now.update(self._features(images, tiles, index))
            features = now[index] if offsets else now.pop(index)
            # before the first frame there is the first frame
            past = tuple(self._past[max(self._index + offset, 0)][index] for offset in offsets)
            return self.model.decoder.encode(features, past)

        return encode

    def _features(self, images: list[Tensor], tiles: list[Tile], first: int) -> dict[int, Features]:
        """Return the features of a tile, and of those after it that its batch has: tiles of one size."""
        some = tiles[first : first + self.geometry.batch]
        some = list(takewhile(lambda tile: (tile.height, tile.width) == (some[0].height, some[0].width), some))
        # padding that is normalised to 0
        crops = torch.cat([sliding_window.cut(images[tile.view], tile, self.model.mean) for tile in some])
        whole = self.model.features(crops)
        parts = [[level[row : row + 1] for level in (*whole.levels, whole.deepest)] for row in range(len(some))]
        return {first + row: Features(tuple(part[:-1]), part[-1]) for row, part in enumerate(parts)}

    def _forget(self) -> None:
        """Drop features that no later frame reads."""
        now = self._past.get(self._index, {})
        self._past[self._index] = {tile: self.model.decoder.remember(features) for tile, features in now.items()}
        oldest = self._index + 1 + min(self.model.decoder.past, default=0)
        for index in [index for index in self._past if index < oldest]:
            del self._past[index]


class Windows:
    """A frame's windows by tile: caches, made on first use, and the logits of the P before, as far as `room` allows."""

    def __init__(self, decoder: Any, encode: Callable[[int], Any], room: int) -> None:
        self._decoder = decoder
        self._encode = encode
        self._room = room  # bytes
        self._caches: dict[int, Any] = {}
        self._logits: dict[int, Tensor] = {}
        self._keys: dict[int, Tensor] = {}

    def predict(self, index: int, prior: Tensor | None) -> tuple[Tensor, bool]:
        """Return a tile's logits for P, and whether P equals that of the stage before: then logits are unchanged."""
        cache = self.cache(index)
        key = self._decoder.prior_key(cache, prior)
        before = self._keys.get(index)
        same = key is not None and before is not None and torch.equal(key, before)
        if same and index in self._logits:
            return self._logits[index], True
        logits = self._decoder.predict(cache, prior)
        if key is None:
            self._keys.pop(index, None)
            return logits, False
        self._keys[index] = key
        if index in self._logits or (index in self._caches and self._fits(logits)):
            self._logits[index] = logits
        return logits, same

    def cache(self, index: int) -> Any:
        """Return all that does not depend on P, computed once if it can be held."""
        if index in self._caches:
            return self._caches[index]
        cache = self._encode(index)
        if self._fits(cache):
            self._caches[index] = cache
        return cache

    def _fits(self, value: Any) -> bool:
        """Reserve memory for a value, if there is enough."""
        needed = nbytes(value)
        fits = needed <= self._room
        self._room -= needed if fits else 0
        return fits


def nbytes(value: Any) -> int:
    """Return the bytes of all tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    return sum(map(nbytes, value)) if isinstance(value, tuple | list) else 0
