"""Files that are anything but what they should be: either they are read, or one line says which, why and what to do.

More than a thousand generated split lists, class lists and pictures, and the mistakes that people make by hand.
"""

import io
import json
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from vspw_files import make_vspw, write

from harness.core.config import compose
from harness.core.content import resolve
from harness.core.errors import HarnessError, UnfitError
from harness.datasets import vspw
from harness.datasets._pictures import read_labels
from harness.engine import build
from models.encoders import _weights, beit

VIDEO, FRAME = "val_00000", "00000000"


def many(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def attempt(action, path=None):
    """What an action gives, or None where it ends in a mistake of one line (that names the file)."""
    try:
        return action()
    except HarnessError as error:
        check(str(error), path)
        return None


def check(message, path=None):
    assert message.isprintable(), message
    assert path is None or str(path) in message, message
    assert "Traceback" not in message


def fails(action, *words):
    with pytest.raises(UnfitError) as caught:
        action()
    check(str(caught.value))
    assert all(str(word) in str(caught.value) for word in words), str(caught.value)


@pytest.fixture
def root(tmp_path):
    return make_vspw(tmp_path / "made")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root whose files are overwritten again and again."""
    return make_vspw(tmp_path_factory.mktemp("generated") / "made", frames=1)


def build_data(root):
    return vspw.Dataset(vspw.Config(root=str(root)))


def walk(data, split="val"):
    """Read every frame of a split."""
    return [data.read(split, video, frame) for video in data.videos(split) for frame in data.frames(split, video)]


# split lists

plain = ["val_00000", "..", "../x", "/etc", "a b", "'", '"', "🙂", "\0", "\x1b[31m", "\r", "x" * 300, "\u2028", "~"]
odd = st.sampled_from([*(name.encode() for name in plain), b"\xff\xfe", b"\xef\xbb\xbf", b"-rf", b"$(id)", b"\t"])
split_lists = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.one_of(odd, st.binary(max_size=6)), max_size=6).map(b"\n".join),
)


@many(500)
@given(split_lists)
def test_any_split_list(place, content):
    path = place / "val.txt"
    path.write_bytes(content)
    names = attempt(lambda: build_data(place).videos("val"), path)
    if names is not None:
        assert len(names) == len(set(names)) > 0
        assert all(name.strip() == name and name not in ("", ".", "..") for name in names)
        assert not any(character in name for name in names for character in "/\\\0\n")
        attempt(lambda: walk(build_data(place)))


@many(60)
@given(st.text(min_size=1, max_size=30))
def test_any_name_of_a_video(place, name):
    (place / "val.txt").write_text(name, encoding="utf-8", errors="surrogatepass", newline="")
    names = attempt(lambda: build_data(place).videos("val"), place / "val.txt")
    for found in names or ():
        for kind, suffix in (("origin", "jpg"), ("mask", "png")):
            write(place / "data" / found / kind / f"0.{suffix}", np.zeros((4, 4), np.uint8))
    assert names is None or len(walk(build_data(place))) == len(names)


# class lists

values = st.one_of(
    st.integers(-3, 300), st.floats(), st.booleans(), st.none(), st.text(max_size=4), st.integers(10**30, 10**40)
)
trees = st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
numbered = st.lists(st.text(st.characters(), max_size=5), max_size=6).map(
    lambda names: json.dumps({name: number for number, name in enumerate(names)})
)
class_lists = st.one_of(
    st.binary(max_size=40),
    trees.map(json.dumps).map(str.encode),
    numbered.map(str.encode),
    numbered.flatmap(lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut].encode())),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=5).map(
        lambda pairs: ("{" + ",".join(f'"{name}":{number}' for name, number in pairs) + "}").encode()
    ),
)


@many(500)
@given(class_lists)
def test_any_class_list(place, content):
    path = place / vspw.CLASS_LIST
    path.write_bytes(content)
    names = attempt(lambda: build_data(place).classes, path)
    if names is not None:
        assert 1 <= len(names) <= 254
        assert len(set(names)) == len(names)
        assert all(isinstance(name, str) and name.encode("utf-8") is not None for name in names)
        known = json.loads(content)
        assert [int(known[name]) for name in names] == list(range(1, len(names) + 1))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"a": 1, "b": 1}', "repetition"),
        ('{"a": 1, "a": 2}', "'a' 2 times"),
        ('{"a": 1, "a": 0}', "'a' 2 times"),
        ('{"a": 1.5}', "no whole number"),
        ('{"a": 1.0}', "no whole number"),
        ('{"a": true}', "no whole number"),
        ('{"a": Infinity}', "no whole number"),
        ('{"a": NaN}', "no whole number"),
        ('{"a": null}', "no whole number"),
        ('{"a": {"b": 1}}', "no whole number"),
        ('{"a": -1}', "without gap"),
        ('{"a": 2}', "without gap"),
        ('{"\\ud83d": 1}', "half a character"),
        ("[" * 100_000, "no mapping"),
        ('{"a":' * 100_000, "no mapping"),
        ('{"a": ' + "9" * 5000 + "}", "no mapping"),
        ("null", "NoneType"),
        ("wall", "no mapping"),
    ],
)
def test_class_list_with_a_mistake(root, content, word):
    (root / vspw.CLASS_LIST).write_text(content)
    fails(lambda: build_data(root).classes, root / vspw.CLASS_LIST, word)


def test_class_list_that_leads_nowhere_is_not_passed_over(root):
    (root / vspw.CLASS_LIST).unlink()
    (root / vspw.CLASS_LIST).symlink_to(root / "gone.json")
    fails(lambda: build_data(root).classes, root / vspw.CLASS_LIST, "no mapping")


# pictures


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
MASKS = {"PNG L", "PNG P", "PNG 1", "PNG I;16", "JPEG L", "TIFF L", "TIFF I", "GIF P", "BMP L", "PPM L"}


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


@pytest.fixture(autouse=True)
def _lists_of_their_own(request):
    """The generated lists do not stay: each test finds a root whose other files are whole."""
    if "place" in request.fixturenames:
        place = request.getfixturevalue("place")
        (place / "val.txt").write_text(VIDEO)
        (place / vspw.CLASS_LIST).write_text('{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}')


@pytest.mark.parametrize("name", WHOLE)
def test_pictures_of_every_mode(root, name):
    path = root / "data" / VIDEO / "mask" / f"{FRAME}.png"
    path.write_bytes(WHOLE[name])
    if name in MASKS:
        assert vspw.read_mask(path).shape == (8, 12)
        fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "the mask is 12×8, its image 32×24")
    else:
        fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "one whole number a pixel")


def test_picture_that_would_fill_the_memory(root):
    path = root / "data" / VIDEO / "origin" / f"{FRAME}.jpg"
    Image.new("1", (20_000, 20_000)).save(path, "PNG")
    fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "damaged", "fetch it again")


@pytest.mark.parametrize("kind", ["origin", "mask"])
def test_picture_that_is_no_file(root, kind):
    path = next((root / "data" / VIDEO / kind).glob(f"{FRAME}.*"))
    path.unlink()
    path.mkdir()
    fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "no picture")
    path.rmdir()
    os.mkfifo(path)  # reading one would wait for ever
    fails(lambda: build_data(root).read("val", VIDEO, FRAME), path, "no picture")


# roots


def test_half_copied_root(root):
    videos = [root / "data" / name for name in ("val_00000", "val_00001")]
    for file in (videos[1] / "mask").iterdir():
        file.unlink()
    assert len(build_data(root).frames("val", "val_00000")) == 3
    fails(lambda: walk(build_data(root)), videos[1] / "mask", "holds no .png file", "complete the data")
    (videos[1] / "mask").rmdir()
    fails(lambda: walk(build_data(root)), videos[1] / "mask", "no such folder", "complete the data")
    for file in (videos[1] / "origin").iterdir():
        file.unlink()
    fails(lambda: walk(build_data(root)), videos[1] / "origin", "holds no .jpg file")
    (root / "data").rename(root / "date")
    fails(lambda: walk(build_data(root)), root / "data" / VIDEO / "origin", "no such folder")
    (root / "val.txt").unlink()
    fails(lambda: walk(build_data(root)), root / "val.txt", "no such split list")


@pytest.mark.parametrize("name", ["", "data", f"data/{VIDEO}", f"data/{VIDEO}/origin", f"data/{VIDEO}/mask", "val.txt"])
def test_links_in_a_circle(root, name):
    path = root / name
    path.rename(root.parent / "moved")
    path.symlink_to(path)
    fails(lambda: walk(build_data(root)), root)


def test_link_of_a_picture_to_itself(root):
    path = root / "data" / VIDEO / "mask" / f"{FRAME}.png"
    path.unlink()
    path.symlink_to(path)
    fails(lambda: walk(build_data(root)), path, "complete the data")


@pytest.mark.parametrize("name", ["with space", "it's", '"quoted"', "🙂", "val.00", "Ünïcode", "-rf", "$(id)", "%s{0}"])
def test_names_that_look_odd_are_read(root, name):
    (root / "data" / VIDEO).rename(root / "data" / name)
    (root / "val.txt").write_text(name)
    assert len(walk(build_data(root))) == 3


@pytest.mark.parametrize("name", ["new\nline", "\x1b[31mred", "tab\there", "🙂 'a' \"b\"", os.fsdecode(b"\xff")])
def test_messages_are_one_line_whatever_the_path(root, name):
    odd = root.rename(root.parent / name)
    assert len(walk(build_data(odd))) == 6
    (odd / "data" / VIDEO / "origin" / f"{FRAME}.jpg").write_bytes(b"")
    fails(lambda: walk(build_data(odd)), "0 bytes")
    (odd / "data" / VIDEO / "origin" / f"{name}.jpg").write_bytes(b"")
    fails(lambda: walk(build_data(odd)), "has no mask")
    (odd / "val.txt").write_text("")
    fails(lambda: walk(build_data(odd)), "lists no video")
    (odd / vspw.CLASS_LIST).write_text("")
    fails(lambda: build_data(odd).classes, "no mapping")


@pytest.mark.parametrize("path", ["~no_such_person/VSPW", "x" * 5000, "/dev/null", "/dev/null/VSPW", "a\0b", ""])
def test_root_that_is_no_folder(path):
    data = build_data(path)
    attempts = [lambda split=split: data.videos(split) for split in vspw.SPLITS]
    for action in attempts:
        fails(action)
    assert data.planned("val") == 343


def test_planning_goes_on_and_says_what_is_wrong(root):
    (root / "val.txt").write_bytes(b"\xff\xff")
    (root / vspw.CLASS_LIST).write_text("[1, 2]")
    content = resolve(compose("demo", ["data.name=vspw", f"data.vspw.root={root}"]), None).content
    assert content.splits == {"train": None, "val": None}
    assert content.missing
    for line in content.missing:
        check(line, root)


# weights


@pytest.fixture(scope="module")
def trained():
    return beit.Encoder(beit.Config(), 64).backbone.state_dict()


def load(path):
    """Fill a small BEiT from a file, as training does."""
    encoder = beit.Encoder(beit.Config(weights=str(path)), 64)
    build.load_pretrained(SimpleNamespace(encoder=encoder), {"encoder": {"name": "beit"}})


class Bomb:
    """A pickle that would write a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_whole_weights_are_taken(tmp_path, trained):
    save_file(trained, tmp_path / "weights.safetensors")
    load(tmp_path / "weights.safetensors")
    torch.save({"model": trained}, tmp_path / "weights.pth")
    load(tmp_path / "weights.pth")
    assert set(_weights.read(str(tmp_path / "weights.pth"))) == set(trained)


@pytest.mark.parametrize("wrapped", [lambda bomb: bomb, lambda bomb: {"state_dict": {}, "args": bomb}])
@pytest.mark.parametrize("dump", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_does_not(tmp_path, dump, wrapped):
    path, target = tmp_path / "weights.pth", tmp_path / "ran"
    dump(wrapped(Bomb(target)), path)
    fails(lambda: load(path), path, "could run code", ".safetensors")
    assert not target.exists()


def test_folders_and_files_that_are_not_there(tmp_path):
    fails(lambda: load(tmp_path), tmp_path, "is a folder")
    fails(lambda: load(tmp_path / "none.pth"), tmp_path / "none.pth", "no weights at")
    fails(lambda: load("~no_such_person/x.pth"), "no weights at")
    fails(lambda: load("x" * 5000), "no weights at")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    fails(lambda: load(tmp_path / "loop.pth"), "no weights at")
    odd = tmp_path / "new\nline.pth"
    odd.write_bytes(b"")
    fails(lambda: load(odd), "is no weights file")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda state: {}, "without named tensors"),
        (lambda state: [torch.zeros(3)], "holds a list"),
        (lambda state: torch.zeros(3), "holds a Tensor"),
        (lambda state: 3, "holds a int"),
        (lambda state: {1: torch.zeros(3)}, "without named tensors"),
        (lambda state: {"layer1.0.weight": torch.zeros(3)}, "lacks"),
        (lambda state: {name: value[..., None] for name, value in state.items()}, "does not fit"),
        (lambda state: {name: value.to_sparse() for name, value in state.items()}, "does not fit"),
        (lambda state: {name: value.to(torch.complex64) for name, value in state.items()}, "does not fit"),
        (lambda state: {name: value.long() for name, value in state.items()}, "does not fit"),
    ],
)
def test_weights_of_another_model(tmp_path, trained, spoil, word):
    torch.save(spoil(trained), tmp_path / "weights.pth")
    fails(lambda: load(tmp_path / "weights.pth"), tmp_path / "weights.pth", word)


@pytest.mark.filterwarnings("ignore")
@many(150)
@given(st.data())
def test_any_damage_to_a_weights_file(place, data):
    suffix = data.draw(st.sampled_from([".safetensors", ".pth"]))
    path = place / f"weights{suffix}"
    state = {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content)))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at : at + 4] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        found = _weights.read(str(path))
    except ValueError as error:
        message = str(error)
    else:
        message = f"{path} was read"
        assert all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items())
    check(message, path)
