"""One colour a class, the same in every picture."""

import numpy as np
from numpy.typing import NDArray

VOID_COLOUR = (235, 235, 235)


def palette(classes: int) -> NDArray[np.uint8]:
    """Return colours of classes 0..K-1, well apart for neighbours: Pascal VOC's bits, lighter.  # (256 or K + 1, 3)

    Rows from `classes` on, void's among them, are light grey.
    """
    rows = max(256, classes + 1)
    index = np.arange(1, rows + 1)
    colours = np.zeros((rows, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    colours = (48 + 0.8 * colours).astype(np.uint8)
    colours[classes:] = VOID_COLOUR
    return colours


def coloured(labels: NDArray[np.integer], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture of labels (H, W) in a palette's colours; what is no row of it has the last.  # (H, W, 3)"""
    picture: NDArray[np.uint8] = colours[np.minimum(labels, len(colours) - 1)]
    return picture
