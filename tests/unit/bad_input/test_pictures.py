"""Pictures of every mode, damaged in every way: either they are read, or one line says which, why and what to do."""

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistakes import FRAME, VIDEO, attempt, build_data, fails, many
from PIL import Image

from harness.data.datasets import vspw
from harness.data.pictures import read_labels


def encoded(mode, kind, seed=0):
    """The bytes of a small picture."""
    pixels = np.random.default_rng(seed).integers(0, 6, (8, 12), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "F":
        image = Image.fromarray(pixels.astype(np.float32))
    elif mode.startswith("I"):
        image = Image.fromarray(pixels.astype(np.uint16 if ";" in mode else np.int32))
    else:
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


WHOLE = {
    f"{kind} {mode}": encoded(mode, kind)
    for kind, modes in {
        "PNG": ("L", "P", "1", "I;16", "RGB", "RGBA", "LA"),
        "JPEG": ("L", "RGB", "CMYK"),
        "TIFF": ("L", "F", "I", "CMYK"),
        "GIF": ("P",),
        "BMP": ("L", "RGB"),
        "WEBP": ("RGB",),
        "PPM": ("L", "RGB"),
    }.items()
    for mode in modes
}
MASKS = {"PNG L", "PNG P", "PNG 1", "PNG I;16", "TIFF L", "TIFF I", "GIF P", "BMP L", "PPM L"}
LOSSY = ("JPEG", "WEBP")


@st.composite
def pictures(draw):
    """A picture's bytes, cut, overwritten, doubled or torn."""
    content = bytearray(draw(st.sampled_from(list(WHOLE.values()))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        what = draw(st.sampled_from(["cut", "change", "insert", "remove"]))
        if what == "cut":
            content = content[:at]
        elif what == "change":
            piece = draw(st.binary(min_size=1, max_size=4))
            content[at : at + len(piece)] = piece
        elif what == "insert":
            content[at:at] = draw(st.binary(max_size=8))
        else:
            del content[at : at + draw(st.integers(1, 8))]
    return bytes(content)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it then refuses
@many(500)
@given(pictures())
def test_any_picture(place, content):
    for kind, suffix in (("origin", ".jpg"), ("mask", ".png")):
        path = place / "data" / "train_00000" / kind / f"00000000{suffix}"
        before = path.read_bytes()
        path.write_bytes(content)
        frame = attempt(lambda: vspw.Dataset(vspw.Config(root=str(place))).read("train", "train_00000", FRAME))
        labels = attempt(lambda path=path: read_labels(path, 6), path)
        path.write_bytes(before)
        if frame is not None:
            assert frame.image.dtype == frame.label.dtype == np.uint8
            assert frame.image.shape == (*frame.label.shape, 3)
        if labels is not None:
            assert labels.dtype == np.uint8
            assert labels.max() < 6


@pytest.mark.parametrize("name", WHOLE)
def test_pictures_of_every_mode(root, name):
    path = root / "data" / VIDEO / "mask" / f"{FRAME}.png"
    path.write_bytes(WHOLE[name])
    if name in MASKS:
        assert vspw.read_mask(path).shape == (8, 12)
        fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "the mask is 12×8, its image 32×24")
    else:
        word = "is a lossy" if name.startswith(LOSSY) else "one whole number per pixel"
        fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, word)


def test_picture_that_would_fill_the_memory(root):
    path = root / "data" / VIDEO / "origin" / f"{FRAME}.jpg"
    Image.new("1", (20_000, 20_000)).save(path, "PNG")
    fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "400 000 000 pixels, too large")


@pytest.mark.parametrize("kind", ["origin", "mask"])
def test_picture_that_is_no_file(root, kind):
    path = next((root / "data" / VIDEO / kind).glob(f"{FRAME}.*"))
    path.unlink()
    path.mkdir()
    fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "not an image")
    path.rmdir()
    os.mkfifo(path)  # reading one would wait for ever
    fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "not an image")
