"""Pictures are read as they were meant, or refused by name: each kind with its right numbers."""

import io
import itertools
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.common.errors import UnfitError
from harness.data.pictures import IMAGES, list_pictures, read_image, read_labels, read_mask, size_of

RAMP = np.arange(96, dtype=np.uint8).reshape(8, 12)  # no two pixels alike


def png(pixels: np.ndarray, bits: int, kind: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of any depth, one channel; `kind` 3 takes its palette from `extra`."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape
    digits = pixels[..., None] >> np.arange(bits)[::-1] & 1  # (H, W, bits)
    lines = b"".join(b"\0" + np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in digits)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", extra) if kind == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + palette
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def saved(tmp_path: Path, content: bytes, name: str = "m.png") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def assert_refused(path: Path, *words: str, read=read_mask) -> None:
    with pytest.raises(UnfitError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert all(word in message for word in (str(path), "; ", *words)), message


# masks


@pytest.mark.parametrize(("bits", "kind"), [*itertools.product((1, 2, 4, 8), (0, 3)), (16, 0)])
def test_numbers_of_any_depth_are_those_that_are_stored(tmp_path: Path, bits: int, kind: int) -> None:
    mask = RAMP.astype(int) % min(2**bits, 256)
    colours = np.random.default_rng(0).integers(0, 256, (2 ** min(bits, 8), 3), np.uint8).tobytes()
    path = saved(tmp_path, png(mask, bits, kind, colours))
    np.testing.assert_array_equal(read_mask(path), mask)
    np.testing.assert_array_equal(read_labels(path, 256), mask)


@pytest.mark.parametrize("value", [256, 26001, 65535])
def test_16_bits_beyond_a_class_are_refused(tmp_path: Path, value: int) -> None:
    assert_refused(saved(tmp_path, png(np.array([[1, value]]), 16)), f"contains {value}", "void 255")


def test_a_server_that_rescales_grey_gets_whole_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path, png(RAMP.astype(int) % 4, 2))
    assert_refused(path, "less than 8 bits", read=lambda path: read_labels(path, 4, stored=np.uint8))


def test_an_optimiser_s_grey_palette_is_refused(tmp_path: Path) -> None:
    levels = np.array([0, 3, 7, 42, 255], np.uint8)  # as oxipng writes a mask of these five
    path = saved(tmp_path, png(RAMP.astype(int) % 5, 8, 3, levels.repeat(3).tobytes()))
    assert_refused(path, "index 1", "level 3", "8-bit grey")


def test_a_grey_palette_that_is_the_indices_is_read(tmp_path: Path) -> None:
    mask = RAMP.astype(int) % 5
    path = saved(tmp_path, png(mask, 8, 3, np.arange(256, dtype=np.uint8).repeat(3).tobytes()))
    np.testing.assert_array_equal(read_mask(path), mask)


def test_a_colour_palette_stands_for_indices_where_a_mask_holds_grey_entries_only(tmp_path: Path) -> None:
    colours = np.zeros((8, 3), np.uint8)
    colours[1], colours[7] = (128, 0, 0), (128, 128, 128)  # as in PASCAL VOC's palette
    mask = np.where(RAMP % 2, 7, 0)
    np.testing.assert_array_equal(read_mask(saved(tmp_path, png(mask, 8, 3, colours.tobytes()))), mask)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_files_named_png_are_refused(tmp_path: Path, kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(RAMP).save(out, kind)
    assert_refused(saved(tmp_path, out.getvalue()), "lossy", kind, "save masks as PNG")


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", None])
def test_tiff_is_as_lossy_as_its_compression(tmp_path: Path, compression: str | None) -> None:
    out = io.BytesIO()
    Image.fromarray(RAMP).save(out, "TIFF", compression=compression)
    path = saved(tmp_path, out.getvalue())
    if compression == "jpeg":
        assert_refused(path, "lossy")
    else:
        np.testing.assert_array_equal(read_mask(path), RAMP)


def test_formats_that_rescale_or_invert_are_refused(tmp_path: Path) -> None:
    assert_refused(saved(tmp_path, b"P5 4 1 7\n\0\1\2\3", "a.png"), "rescaled")
    assert_refused(saved(tmp_path, b"P2 4 1 7\n0 1 2 3\n", "b.png"), "rescaled")
    assert_refused(saved(tmp_path, b"P4 8 1\n\xaa", "c.png"), "inverted")
    np.testing.assert_array_equal(read_mask(saved(tmp_path, b"P5 4 1 255\n\0\1\2\3", "d.png")), [[0, 1, 2, 3]])


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_mask_that_asks_to_be_turned_is_refused(tmp_path: Path, turn: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(RAMP).save(tmp_path / "m.png", kind, exif=exif)
    if turn == 1:
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), RAMP)
    else:
        assert_refused(tmp_path / "m.png", f"orientation {turn}")


# images


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_images_are_upright(tmp_path: Path, turn: int, suffix: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8, 0], upright[8:, 24:, 1] = 255, 255
    rows, columns = {  # what a camera held so would store
        1: (slice(None), slice(None)),
        2: (slice(None), slice(None, None, -1)),
        3: (slice(None, None, -1), slice(None, None, -1)),
        4: (slice(None, None, -1), slice(None)),
        5: (slice(None), slice(None)),
        6: (slice(None, None, -1), slice(None)),
        7: (slice(None, None, -1), slice(None, None, -1)),
        8: (slice(None), slice(None, None, -1)),
    }[turn]
    stored = upright[rows, columns] if turn < 5 else upright.transpose(1, 0, 2)[rows, columns]
    if turn in (6, 8):  # a quarter turn back
        stored = np.rot90(upright, 1 if turn == 6 else -1)
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"i.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(
        path, exif=exif, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {})
    )
    assert np.abs(read_image(path).astype(int) - upright).max() <= 8
    assert size_of(path) == (16, 32)


def test_a_damaged_exif_block_turns_nothing(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "i.jpg", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(tmp_path / "i.jpg").shape == (8, 12, 3)


def test_16_bits_become_8(tmp_path: Path) -> None:
    path = saved(tmp_path, png(RAMP.astype(int) * 257, 16), "i.png")
    np.testing.assert_array_equal(read_image(path), RAMP[..., None].repeat(3, 2))
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "f.tif")
    assert_refused(tmp_path / "f.tif", "32-bit pixels", read=read_image)


def test_alpha_is_opaque_or_refused_by_name(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 12, 4), np.uint8)
    colours[..., 3] = 255
    Image.fromarray(colours).save(tmp_path / "whole.png")
    np.testing.assert_array_equal(read_image(tmp_path / "whole.png"), colours[..., :3])
    colours[0, 0, 3] = 254
    Image.fromarray(colours).save(tmp_path / "hole.png")
    assert_refused(tmp_path / "hole.png", "alpha", read=read_image)
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "key.png", transparency=(5, 5, 5))
    assert_refused(tmp_path / "key.png", "alpha", read=read_image)
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "unused.png", transparency=(1, 2, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "unused.png"), RAMP[..., None].repeat(3, 2))


def test_text_in_a_png_is_no_transparency(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Comment", "transparency")
    Image.fromarray(RAMP).save(tmp_path / "i.png", pnginfo=info)
    assert read_image(tmp_path / "i.png").shape == (8, 12, 3)


@pytest.mark.filterwarnings("ignore")  # pytest undoes the filter of the module
def test_a_very_large_picture_is_large_and_not_damaged(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "i.png")
    assert_refused(tmp_path / "i.png", "400 000 000 pixels", "too large", read=read_image)
    Image.new("1", (9_500, 9_500)).save(tmp_path / "i.png")  # Pillow warns from 89 million on
    assert size_of(tmp_path / "i.png") == (9_500, 9_500)


# folders


def test_no_picture_vanishes_because_of_its_suffix(tmp_path: Path) -> None:
    for index, suffix in enumerate(IMAGES):
        (tmp_path / f"{index}{suffix.upper() if index % 2 else suffix.title()}").write_bytes(b"")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    assert sorted(list_pictures(tmp_path)) == sorted(map(str, range(len(IMAGES))))


def test_two_pictures_of_a_frame_and_a_folder_named_as_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "1.JPG").write_bytes(b"")
    assert_refused(tmp_path, "1.JPG and 1.jpg", "keep one", read=list_pictures)
    (tmp_path / "1.JPG").unlink()
    (tmp_path / "sub.png").mkdir()
    assert_refused(tmp_path, "sub.png", "a folder", read=list_pictures)
    (tmp_path / "sub.png").rmdir()
    (tmp_path / "sub.png").symlink_to(tmp_path)
    assert_refused(tmp_path, "sub.png", "a folder", read=list_pictures)
