"""One colour a class, the same in every picture."""

import numpy as np
from numpy.typing import NDArray

VOID_COLOUR = (235, 235, 235)


def palette(classes: int) -> NDArray[np.uint8]:
    """Return colours of classes 0..K-1, well apart for neighbours: Pascal VOC's bit pattern, lighter.  # (256, 3)

    Rows from `classes` on, void's among them, are light grey.
    """
    index = np.arange(1, 257)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    colours = (48 + 0.8 * colours).astype(np.uint8)
    colours[classes:] = VOID_COLOUR
    return colours
