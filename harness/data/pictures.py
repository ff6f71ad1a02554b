"""Pictures from files that may be anything: what decodes is returned, all else is an UnfitError of one line.

Shapes: H × W pixels.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from harness.common.errors import UnfitError


def shown(value: object) -> str:
    """A path or a name as a message shows it: as it is, quoted and escaped where it holds what does not print."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image of any mode as RGB.  # (H, W, 3)   Raises UnfitError for a file that is empty, cut off or no image."""
    return decode(path, "RGB")


def read_mask(path: Path, data: bytes | None = None) -> NDArray[np.integer]:
    """A mask's stored values; palette files give their indices. `data`: the file's bytes where they are at hand.

    Raises UnfitError for a file that is empty, cut off, no image or a colour picture.
    """
    mask = decode(path, None, data)  # (H, W)
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        what = f"{mask.shape[2]} channels" if mask.ndim == 3 else str(mask.dtype)
        raise UnfitError(f"{shown(path)}: a mask has one whole number a pixel, this has {what}; save it as indices")
    return mask.astype(np.uint8) if mask.dtype.kind == "b" else mask


def read_labels(
    path: Path, num_classes: int, data: bytes | None = None, stored: type[np.generic] | None = None
) -> NDArray[np.uint8]:
    """A mask's class indices, of a file or of its bytes, `stored` with that type where it matters.  # (H, W)

    Raises UnfitError for a file that is no mask and for a label that is no class.
    """
    mask = read_mask(path, data)
    if stored is not None and mask.dtype != stored:
        raise UnfitError(f"{shown(path)}: is stored as {mask.dtype}, not {np.dtype(stored)}; save it again")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high >= num_classes:
        value = high if high >= num_classes else low
        raise UnfitError(f"{shown(path)}: holds {value}, which is no class; indices run from 0 to {num_classes - 1}")
    return mask.astype(np.uint8)


def decode(path: Path, mode: str | None, data: bytes | None = None) -> NDArray[Any]:
    """The pixels of a file, brought to a mode where one is named. Raises UnfitError."""
    if data is None and not os.path.isfile(path):  # a pipe would be waited for
        what = "no picture" if os.path.lexists(path) else "no such file"
        raise UnfitError(f"{shown(path)}: {what}; complete the data")
    try:
        with Image.open(path if data is None else BytesIO(data)) as image:
            return np.array(image if mode is None else image.convert(mode))
    except Exception as error:  # a damaged file raises whatever its decoder meets first
        raise UnfitError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """One line on a file that does not decode."""
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return f"{shown(path)}: 0 bytes; fetch it again, or take its video off the list"
    unknown = isinstance(error, UnidentifiedImageError)  # its own words repeat the path
    reason = "no picture" if unknown else shown(" ".join(str(error).split()) or type(error).__name__)
    return f"{shown(path)}: damaged ({reason}); fetch it again, or take its video off the list"
