"""Images and masks from files that may be anything, read as they were meant; all else is an UnfitError of one line.

An image is turned as its EXIF orientation says, its channels are cut to 8 bits, and its alpha channel, if it has one,
must be opaque. A mask holds the numbers that its file stores: of 1, 2, 4, 8 or 16 bits a pixel, or a palette's indices;
read as colours, the three numbers that a pixel shows.
Refused are masks whose numbers a decoder changes (lossy formats, an orientation, inverted or rescaled grey), and grey
palettes whose levels are not their indices: optimisers of PNGs write them for grey masks, where the level is meant.

Shapes: H × W pixels.
"""

import os
import re
import warnings
from collections.abc import Callable, Collection
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

from harness.common.errors import UnfitError
from harness.data.contract import Label, label_type

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")  # suffixes, in any case
MASKS = (".png",)
LOSSLESS = ("PNG", "BMP", "GIF", "TIFF", "PPM")  # formats that keep a mask's numbers
LOSSY_TIFF = ("jpeg", "webp")
RESCALED = {"L;2": 85, "L;4": 17}  # Pillow's factor from stored grey to 0..255, by raw mode
UPRIGHT = 1
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # EXIF orientation -> what makes it upright

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # half the size that is refused

Read = Callable[[Path, ImageFile], Any]


def shown(value: object) -> str:
    """Return a path or a name as a message shows it: as it is, quoted and escaped if it holds what does not print."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def list_pictures(folder: Path, suffixes: Collection[str] = IMAGES) -> dict[str, Path]:
    """Return stem -> file of a folder's pictures by their suffix in any case, unordered; hidden files are none.

    Raise OSError for a folder that cannot be read, UnfitError for a folder with a picture's name and for two pictures
    of one stem.
    """
    pictures: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in suffixes or entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(path)):
                raise UnfitError(f"{shown(path)}: a folder, not an image; rename or remove it")
            if stem in pictures:
                names = " and ".join(sorted((shown(pictures[stem].name), shown(entry.name))))
                raise UnfitError(f"{shown(folder)}: {names} are two images of one frame; keep one")
            pictures[stem] = path
    return pictures


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as RGB, upright.  # (H, W, 3)

    Raise UnfitError for a file that is empty, cut off, too large or no image, and for transparent pixels.
    """
    image: NDArray[np.uint8] = decode(path, to_rgb)
    return image


def size_of(path: Path) -> tuple[int, int]:
    """Return the height and width of the upright image, from the file's header. Raise UnfitError."""
    size: tuple[int, int] = decode(path, to_size)
    return size


def read_mask(
    path: Path, data: bytes | None = None, whole_bytes: bool = False, highest: int = 255
) -> NDArray[np.integer]:
    """Return a mask's stored numbers, 0 to `highest`; palette files give their indices.  # (H, W)

    `data`: the file's bytes where they are at hand; `whole_bytes` refuses 2 or 4 bits of grey, which other readers
    rescale. Raise UnfitError for a file that is empty, cut off or no image, and for one whose numbers are not certain.
    """
    mask: NDArray[np.integer] = decode(path, partial(to_bytes if whole_bytes else to_numbers, highest=highest), data)
    return mask


def read_colours(path: Path) -> NDArray[np.uint8]:
    """Return the colours of a mask whose colours are its labels; palette files give the palette's.  # (H, W, 3)

    Raise UnfitError as `read_mask` does.
    """
    colours: NDArray[np.uint8] = decode(path, to_colours)
    return colours


def read_labels(
    path: Path, num_classes: int, data: bytes | None = None, stored: type[np.generic] | None = None
) -> Label:
    """Return a mask's class indices, of a file or of its bytes, `stored` with that type where it matters.  # (H, W)

    Raise UnfitError for a file that is no mask and for a label that is no class.
    """
    mask = read_mask(path, data, whole_bytes=stored is not None, highest=max(255, num_classes))
    if stored is not None and mask.dtype != stored:
        raise UnfitError(f"{shown(path)}: is stored as {mask.dtype}, not {np.dtype(stored)}; save it again")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high >= num_classes:
        value = high if high >= num_classes else low
        raise UnfitError(
            f"{shown(path)}: contains {value}, which is not a class; indices run from 0 to {num_classes - 1}"
        )
    return mask.astype(label_type(num_classes))


def decode(path: Path, read: Read, data: bytes | None = None) -> Any:
    """Return the result of `read` on the opened file. Raise UnfitError."""
    if data is None and not os.path.isfile(path):  # a pipe would be waited for
        what = "not an image" if os.path.lexists(path) else "no such file"
        raise UnfitError(f"{shown(path)}: {what}; complete the data")
    try:
        with Image.open(path if data is None else BytesIO(data)) as image:
            return read(path, image)
    except UnfitError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder meets first
        raise UnfitError(unreadable(path, error)) from error


def to_rgb(path: Path, image: ImageFile) -> NDArray[np.uint8]:
    """Return an opened image as RGB, upright.  # (H, W, 3)"""
    image.load()  # a PNG's EXIF may follow its pixels
    upright = TURNS.get(orientation(image))
    plain: Image.Image = image
    if image.mode.startswith("I;16"):
        plain = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # as Pillow does with 16 bits of colour
    elif image.mode in ("I", "F"):
        raise UnfitError(
            f"{shown(path)}: 32-bit pixels ({image.mode}), whose white level is unknown; save it with 8 bits"
        )
    elif image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise UnfitError(f"{shown(path)}: has transparent pixels (alpha), whose colour is unknown; save it without")
    plain = plain if plain.mode == "RGB" else plain.convert("RGB")  # which would copy it
    return np.array(plain if upright is None else plain.transpose(upright))


def to_size(path: Path, image: ImageFile) -> tuple[int, int]:
    """Return the height and width of an opened image, upright."""
    del path
    on_its_side = orientation(image) >= 5 and image.format != "TIFF"  # Pillow gives a TIFF upright
    return (image.width, image.height) if on_its_side else (image.height, image.width)


def to_bytes(path: Path, image: ImageFile, highest: int = 255) -> NDArray[np.integer]:
    """Return an opened mask's numbers. Raise UnfitError where a reader that rescales grey would take others."""
    if raw_mode(image) in RESCALED:
        raise UnfitError(f"{shown(path)}: has less than 8 bits per pixel, which most readers rescale; save it with 8")
    return to_numbers(path, image, highest)


def to_colours(path: Path, image: ImageFile) -> NDArray[np.uint8]:
    """Return an opened mask's colours.  # (H, W, 3)"""
    turn = orientation(image)
    check_lossless(path, image)
    if turn != UPRIGHT:
        raise UnfitError(f"{shown(path)}: a mask with EXIF orientation {turn}; turn its pixels and save it without")
    return to_rgb(path, image)


def check_lossless(path: Path, image: ImageFile) -> None:
    """Raise UnfitError for an opened mask whose format changes its numbers."""
    if image.format not in LOSSLESS or any(word in str(image.info.get("compression")) for word in LOSSY_TIFF):
        raise UnfitError(f"{shown(path)}: is a lossy {image.format}, whatever its name says; save masks as PNG")


def to_numbers(path: Path, image: ImageFile, highest: int = 255) -> NDArray[np.integer]:
    """Return an opened mask's numbers.  # (H, W)"""
    raw, rescaled = raw_mode(image), any(tile[0].startswith("ppm") and tile[3] != ("L", 255) for tile in image.tile)
    turn = orientation(image)  # before the pixels are read: Pillow turns a TIFF with them
    check_lossless(path, image)
    if rescaled or raw.partition(";")[2].endswith(("I", "IR")):
        raise UnfitError(f"{shown(path)}: a {image.format} whose numbers are inverted or rescaled; save masks as PNG")
    mask = np.array(image)  # (H, W)
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        what = f"{mask.shape[2]} channels" if mask.ndim == 3 else str(mask.dtype)
        raise UnfitError(f"{shown(path)}: a mask has one whole number per pixel, this has {what}; save it as indices")
    if turn != UPRIGHT:
        raise UnfitError(f"{shown(path)}: a mask with EXIF orientation {turn}; turn its pixels and save it without")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > highest:
        value = high if high > highest else low
        raise UnfitError(
            f"{shown(path)}: contains {value}; class numbers end at {highest}: give each pixel its class, with void 255"
        )
    if raw in RESCALED:
        return mask // RESCALED[raw]
    check_palette(path, image, mask)
    return mask.astype(np.uint8) if mask.dtype.kind == "b" else mask


def check_palette(path: Path, image: ImageFile, mask: NDArray[np.integer]) -> None:
    """Raise UnfitError for a palette of grey levels in which an index of the mask (H, W) has another level."""
    if image.mode != "P":
        return
    palette = np.array(image.getpalette("RGB") or [], int).reshape(-1, 3)
    if not len(palette) or (palette != palette[:, :1]).any():
        return  # colours stand for indices
    for index in np.unique(mask).tolist():
        level = palette[index, 0] if index < len(palette) else None
        if level != index:
            raise UnfitError(
                f"{shown(path)}: its palette is grey and gives index {index} the level {level}: either may be meant; "
                "save it as plain 8-bit grey, and do not run PNG optimisers on masks"
            )


def raw_mode(image: ImageFile) -> str:
    """Return Pillow's name for how an opened file stores its pixels; empty where its decoder has one way only."""
    args = image.tile[0].args if image.tile else None
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or its block is damaged."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        return int(turn) if turn in TURNS else UPRIGHT
    except Exception:  # of whatever a damaged block meets first; every viewer shows such a file as it lies
        return UPRIGHT


def unreadable(path: Path, error: Exception) -> str:
    """Return one line on a file that does not decode."""
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return f"{shown(path)}: 0 bytes; download it again, or remove its video from the list"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        pixels = re.search(r"\d+", str(error))  # "Image size (400000000 pixels) exceeds limit of …"
        many = f" of {int(pixels[0]):,} pixels".replace(",", " ") if pixels else ""
        return f"{shown(path)}: an image{many}, too large to be read; make it smaller"
    unknown = isinstance(error, UnidentifiedImageError)  # its own words repeat the path
    reason = "not an image" if unknown else shown(" ".join(str(error).split()) or type(error).__name__)
    return f"{shown(path)}: damaged ({reason}); download it again, or remove its video from the list"
