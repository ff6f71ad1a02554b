"""Values of a command line: decimal numbers or refusals, and paths as they stand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.common.errors import UsageError
from harness.config.compose import compose, schema
from harness.config.overrides import parse


@pytest.mark.parametrize(
    ("override", "leaf"),
    [
        *[(f"seed={text}", text) for text in ("010", "0x10", "0b11", "1_000", "1:30", "00", "+07", "1:30:00")],
        *[(f"train.epochs={text}", text) for text in ("1:30", "090", "1_0")],
        *[(f"train.lr={text}", text) for text in ("1_0e-4", "1:30.5", "01.5")],
        ("extra=[010]", "010"),
    ],
)
def test_a_number_that_is_not_decimal_is_refused(override: str, leaf: str) -> None:
    with pytest.raises(UsageError, match="decimal") as error:
        compose("demo", [override])
    assert override in str(error.value)
    assert f" {leaf}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("1e-4", 1e-4), ("1E5", 1e5), ("+2.5", 2.5), (".5", 0.5), ("5.", 5.0), ("7", 7.0)]
)
def test_decimal_numbers_are_taken(text: str, value: float) -> None:
    assert compose("demo", [f"train.lr={text}"]).train.lr == value


def test_what_yaml_would_cut_off_is_refused() -> None:
    with pytest.raises(UsageError, match="quotes"):
        compose("demo", ["decoder.decoder_a.init=pixel #2"])


PATHS = (
    "/data/a #1",
    "/data/${HOME}",
    "010",
    "no",
    "[a]",
    "{a: 1}",
    "a: b",
    "~/x",
    "1:30",
    "'q'",
    "a\\b",
    "",
    "*x",
    "=",
)


@pytest.mark.parametrize("key", ["data.vspw.root", "encoder.beit.weights", "data.vspw.recording"])
@pytest.mark.parametrize("path", PATHS)
def test_places_are_taken_as_they_stand(key: str, path: str) -> None:
    assert compose("demo", [f"{key}={path}"]).value(key) == path


SCHEMA = schema()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\\${}#: ")))
def test_every_text_is_a_place(path: str) -> None:
    if path != "null":
        node = parse(f"data.vspw.root={path}", SCHEMA)
        assert OmegaConf.to_container(node, resolve=True) == {"data": {"vspw": {"root": path}}}


def test_no_place_is_null() -> None:
    assert compose("demo", ["data.vspw.root=/a", "data.vspw.root=null"]).value("data.vspw.root") is None


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=1", "train.epochs"),
        ("folder.root=city", "data.folder.root"),
        ("data.root=city", "data.vspw.root or data.folder.root"),
    ],
)
def test_a_key_without_its_section_is_refused_with_the_full_one(override: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        compose("demo", [override])
    key = override.partition("=")[0]
    message, _, suggested = str(refused.value).partition("; did you mean ")
    assert message == f"{override}: no key '{key}'"
    assert set(suggested.removesuffix("?").split(" or ")) == set(meant.split(" or "))
