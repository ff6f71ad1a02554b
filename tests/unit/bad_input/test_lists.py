"""Split lists and class lists that are anything but what they should be: more than a thousand generated ones."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistakes import attempt, build_data, fails, many, walk
from vspw_files import write

from harness.data.datasets import vspw

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
    lambda names: json.dumps({"others": 0} | {name: number for number, name in enumerate(names, 1)})
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
        assert 2 <= len(names) <= 254
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
        ('{"a": 1.5}', "not a whole number"),
        ('{"a": 1.0}', "not a whole number"),
        ('{"a": true}', "not a whole number"),
        ('{"a": Infinity}', "not a whole number"),
        ('{"a": NaN}', "not a whole number"),
        ('{"a": null}', "not a whole number"),
        ('{"a": {"b": 1}}', "not a whole number"),
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
