"""What composes, what is refused, and how the refusal reads."""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.common import ranges
from harness.common.errors import UsageError
from harness.config import compose as config
from harness.config import plugins, presets
from harness.config.compose import Config, compose, hashable, schema, used
from harness.config.presets import PRESETS, chain

SHIPPED = sorted(path.stem for path in presets.PRESETS.glob("*.yaml"))


def keys_of(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key of a tree with its value, sections included."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found[prefix + key] = value
        if isinstance(value, dict):
            found |= keys_of(value, f"{prefix}{key}.")
    return found


KEYS = keys_of(dict(compose().tree))
OPTIONAL = {"data.synthetic.fade_chance", "data.synthetic.hue"}  # the demo has numbers there, null is a value too
NUMBERS = sorted(key for key, value in KEYS.items() if type(value) in (int, float) and key not in OPTIONAL)


def refusal(*overrides: str, preset: str = "demo") -> str:
    with pytest.raises(UsageError) as caught:
        compose(preset, overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_schema_was_read() -> None:
    assert {"seed", "train.lr", "decoder.decoder_b.tma_key", "data.vspw.root", "encoder.beit.weights"} <= KEYS.keys()
    assert len(NUMBERS) > 30


@pytest.mark.parametrize(
    ("override", "near"),
    [("train.epocs=3", "epochs"), ("sed=1", "seed"), ("decoder.decoder_a.momentun=0.1", "momentum")],
)
def test_an_unknown_key_is_refused_with_a_suggestion(override: str, near: str) -> None:
    assert f"'{near}'" in refusal(override)


def test_an_unknown_key_in_a_preset_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "base: demo\ntrain: { epocs: 3 }\n")
    message = refusal(preset=path)
    assert "'epochs'" in message
    assert path in message


@pytest.mark.parametrize(
    ("override", "near"),
    [("data.name=vsp", "vspw"), ("data.name=synthetik", "synthetic"), ("encoder.name=bait", "beit")],
)
def test_an_unknown_plugin_is_refused_with_a_suggestion(override: str, near: str) -> None:
    assert f"did you mean '{near}'?" in refusal(override)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["many", "null", "{a: 1}", "???"])
def test_a_number_of_another_type_is_refused_by_its_key(key: str, value: str) -> None:
    assert key in _quickly(f"{key}={value}")


@pytest.mark.parametrize(
    "override",
    [
        *("precision=fp8", "precision=16", "decoder.decoder_a.prior=next", "decoder.decoder_b.init=zeros"),
        *("encoder.beit.pretrained=perhaps", "encoder.beit.model=[a]"),
        *("decoder.decoder_b.tma_scale=2.5x", "data.name=null", "train=3", "train=null"),
        *("train=[1]", "decoder.decoder_a=null", "data=${train}", "seed.x=1", "seed=${seed}", "train.epochs=1.5"),
        *("seed=-1", "train.micro_batch=0", "train.micro_batch=3", "train.lr=nan", "train.lr=inf", "train.warmup=-1"),
        *("report.margin=0", "report.margin=-0.3", "report.margin=nan", "report.margin=inf", "report.margin=some"),
        *("decoder.decoder_a.momentum=2", "decoder.decoder_a.momentum=-1", "decoder.decoder_b.momentum=nan"),
        *("encoder.beit.drop_path=1", "encoder.timm_plain.taps=[-1,2,3,4]", "train.layer_decay=1.5", "data.hold_out=1"),
        *("train.epochs=0", "train.workers=-1", "evaluate.window=0", "evaluate.stride=-3", "train.epochs=???"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(override: str) -> None:
    assert override.partition("=")[0].split(".x")[0] in refusal(override)


def test_a_list_is_asked_for_as_it_is_written() -> None:
    with pytest.raises(UsageError, match=r"a list is needed, in brackets: 'extra=\[decoder_a\]'$"):
        compose("demo", ["extra=decoder_a"])
    with pytest.raises(UsageError, match=r"in brackets: 'evaluate\.metrics=\[boundary\]'$"):
        compose("demo", ["evaluate.metrics=boundary"])


@pytest.mark.parametrize("word", ["train.epochs", "=3", "train epochs=3", "train[epochs]=3", "epochs:3"])
def test_a_word_that_is_no_override_is_refused(word: str) -> None:
    assert "not KEY=VALUE" in refusal(word)


@pytest.mark.parametrize("value", ["{", "[1", "${", "!!python/object:os.system x", "*x", "{a: b: c}"])
def test_a_value_that_is_no_yaml_is_refused(value: str) -> None:
    assert "encoder.beit.model" in refusal(f"encoder.beit.model={value}")


def _quickly(override: str) -> str:
    """The refusal of one override over the demo, without composing the demo again; the value that it has is ''."""
    with (
        mock.patch.object(presets, "chain", return_value=[]),
        mock.patch.object(OmegaConf, "structured", return_value=DEMO),
    ):
        try:
            made = compose("demo", [override])
        except UsageError as error:
            lines = str(error).splitlines()
            return lines[0] if len(lines) == 1 else "more than a line"
    assert isinstance(made, Config)
    json.dumps(made.tree)
    assert math.isfinite(made.train.lr)
    return ""


DEMO = OmegaConf.merge(OmegaConf.structured(config.schema()), OmegaConf.load(presets.PRESETS / "demo.yaml"))
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
VALUES = st.one_of(
    TEXT,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["null", "true", "???", "[]", "{}", "~", "-", "0x1f", "1e5", ".nan", "''", "!!int x", "<<", "fp16"]
    ),
    st.sampled_from(["a", "a.b", "seed", "train.lr", "oc.env:NOTHING", ""]).map(lambda inner: "${" + inner + "}"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
        max_leaves=4,
    ).map(json.dumps),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KEYS)), VALUES)
def test_a_known_key_takes_a_value_or_refuses_it_by_name(key: str, value: str) -> None:
    message = _quickly(f"{key}={value}")
    assert message == "" or key in message or key in ("data.name", "encoder.name")


@settings(max_examples=100, deadline=None)
@given(TEXT | st.lists(st.sampled_from(["train", "data", "vspw", "name", "", "x", "__class__"])).map(".".join), VALUES)
def test_an_unknown_key_is_never_taken(key: str, value: str) -> None:
    if key not in KEYS:
        assert _quickly(f"{key}={value}") != ""


@pytest.mark.parametrize("preset", SHIPPED)
def test_every_shipped_preset_composes(preset: str) -> None:
    made = compose(preset)
    assert made.preset == preset
    assert made.train.epochs >= 1
    assert made.micro_batch == made.train.batch
    assert made["data"]["name"] in plugins.names("datasets")


def test_the_presets_that_are_promised_are_there() -> None:
    promised = {"demo", "camvid", "paper", "authors", "cityscapes_video", "camvid_original", "kitti_step", "vipseg"}
    assert promised <= set(SHIPPED)


def test_the_authors_preset_is_the_papers_with_two_choices_of_theirs() -> None:
    paper, authors = keys_of(dict(compose("paper").tree)), keys_of(dict(compose("authors").tree))
    differing = {key for key, value in paper.items() if not isinstance(value, dict) and authors[key] != value}
    assert differing == {f"decoder.{name}.{key}" for name in ("decoder_a", "decoder_b") for key in ("init", "proj")}


def test_a_chain_of_presets_is_read_from_its_end(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "base: demo\ntrain: { epochs: 5, batch: 6 }\n")
    second = write(tmp_path / "second.yaml", f"base: {first}\ntrain: {{ batch: 4 }}\n")
    made = compose(second, ["train.warmup=1"])
    assert (made.train.epochs, made.train.batch, made.train.warmup) == (5, 4, 1)
    assert made.train.crop == compose("demo").train.crop
    assert made.preset == "second"


def test_several_presets_are_read_in_their_order_each_once(tmp_path: Path) -> None:
    data = write(tmp_path / "data.yaml", "base: demo\ntrain: { epochs: 5, batch: 6 }\n")
    training = write(tmp_path / "training.yaml", "base: demo\ntrain: { batch: 4 }\n")
    both = write(tmp_path / "both.yaml", f"base: {data}+training.yaml\ntrain: {{ warmup: 3 }}\n")
    files = [PRESETS / "demo.yaml", Path(data), Path(training)]
    assert chain(f"{data}+{training}") == files
    assert chain(str(both)) == [*files, Path(both)]
    train = compose(str(both)).train
    assert (train.epochs, train.batch, train.warmup) == (5, 4, 3)
    streets, camvid = compose("camvid+cityscapes_video"), compose("camvid")
    assert (streets.preset, streets.data.name) == ("camvid+cityscapes_video", "folder")
    assert streets.data.config["sparse"] is True
    for section in ("encoder", "decoder", "train", "evaluate", "precision", "seed"):
        assert streets[section] == camvid[section], "that training, this data"
    with pytest.raises(UsageError, match=r"unknown preset 'cityscape_video' \(did you mean 'cityscapes_video'"):
        compose("camvid+cityscape_video")
    write(tmp_path / "training.yaml", "base: demo+both.yaml\n")
    with pytest.raises(UsageError, match="in a circle"):
        compose(str(both))


def test_numbers_as_keys_of_a_map_are_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "map.yaml", "base: demo\ndata: { folder: { label_map: { 7: road, 0-6: null } } }\n")
    labels = {"7": "road", "0-6": None}
    assert compose(str(path))["data"]["folder"]["label_map"] == labels
    given = compose("demo", ["data.folder.label_map={7: road, 0-6: null}", "data.folder.label_map.8=sky"])
    assert given["data"]["folder"]["label_map"] == {**labels, "8": "sky"}


def test_presets_in_a_circle_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    write(first, f"base: {second}\n")
    write(second, f"base: {first}\n")
    assert "circle" in refusal(preset=str(first))
    write(first, f"base: {first}\n")
    assert "circle" in refusal(preset=str(first))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n\tepochs: 3\n", "line 2"),
        ("- a\n- b\n", "mapping"),
        ("train: {", "mine.yaml"),
        ("seed: ???\n", "???"),
        ("seed: many\n", "seed"),
        ("base: nowhere\n", "unknown preset 'nowhere'"),
        ("base: demos\n", "did you mean 'demo'?"),
    ],
)
def test_a_damaged_preset_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(preset=write(tmp_path / "mine.yaml", text))


def test_an_empty_preset_is_the_schemas_defaults(tmp_path: Path) -> None:
    made = compose(write(tmp_path / "mine.yaml", ""))
    assert made.train == config.TrainConfig()


def test_a_preset_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    assert "did you mean 'paper'?" in refusal(preset="papper")
    assert "demo" in refusal(preset=str(tmp_path / "none.yaml"))


OWN = """
VERSION = 1
@dataclass(frozen=True)
class Config:
    \"\"\"Mine.\"\"\"
    rates: tuple[int, ...] = (1, 2)
    place: str | None = field(default=None, metadata={"where": True})
    later: float | None = None
"""


def test_tuples_stay_tuples_and_can_be_hashed(tmp_path: Path) -> None:
    (tmp_path / "decoders").mkdir()
    write(tmp_path / "decoders" / "mine.py", OWN)
    made = compose("demo", ["decoder.mine.rates=[3,4,5]"], [tmp_path])
    assert made["decoder"]["mine"]["rates"] == (3, 4, 5)
    assert compose("demo", (), [tmp_path])["decoder"]["mine"]["rates"] == (1, 2)
    cls = plugins.read_schema(tmp_path / "decoders" / "mine.py").config
    assert cls is not None
    assert hash(cls(**made["decoder"]["mine"])) == hash(cls(rates=(3, 4, 5)))
    assert hashable({"a": [[1], 2]}) == {"a": ((1,), 2)}


def test_where_and_none_stay_out_of_an_identity(tmp_path: Path) -> None:
    (tmp_path / "decoders").mkdir()
    cls = plugins.read_schema(Path(write(tmp_path / "decoders" / "mine.py", OWN))).config
    section = {"rates": (1, 2), "place": "/somewhere", "later": None}
    assert used(section, cls) == {"rates": (1, 2)}
    assert used({**section, "later": 0.0}, cls) == {"rates": (1, 2), "later": 0.0}
    assert used(section, None) == {"rates": (1, 2), "place": "/somewhere"}


def test_no_path_enters_an_identity_by_its_place() -> None:
    for kind in ("encoders", "decoders", "datasets"):
        for name, path in plugins.paths(kind).items():
            cls: Any = plugins.read_schema(path).config
            for field in dataclasses.fields(cls):
                if field.name in ("root", "weights", "path", "folder"):
                    assert field.metadata.get("where"), f"{kind}/{name}: {field.name} is a place"


def test_a_seed_is_set_without_touching_the_rest() -> None:
    one = compose()
    other = one.with_seed(7)
    assert (one["seed"], other["seed"]) == (0, 7)
    assert {**other.tree, "seed": 0} == one.tree


def test_a_base_given_by_its_path_is_taken_from_the_presets_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "base.yaml").write_text("base: demo\ntrain: {epochs: 7}\n")
    (tmp_path / "mine" / "own.yaml").write_text("base: base.yaml\ntrain: {batch: 4}\n")
    monkeypatch.chdir(tmp_path)
    made = compose("mine/own.yaml")
    assert (made.train.epochs, made.train.batch) == (7, 4)


def test_a_stride_wider_than_the_window_would_leave_pixels_out() -> None:
    assert compose("demo", ["evaluate.window=64", "evaluate.stride=64"])["evaluate"]["stride"] == 64
    with pytest.raises(UsageError, match=r"evaluate\.stride=65: must not exceed the window of 64"):
        compose("demo", ["evaluate.window=64", "evaluate.stride=65"])


HEAD = "from dataclasses import field\n@dataclass(frozen=True)\nclass Config:\n    rate: float = "
WRONG_RANGES = ('field(default=0.5, metadata={"range": "0 to 1"})', 'field(default=0.5, metadata={"range": "[1, 0]"})')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f'{HEAD}field(default=2.0, metadata={{"range": "[0, 1]"}})\n', r"rate=2.0: must be in \[0, 1\]"),
        ("@dataclass(frozen=True)\nclass Config:\n    rate: int = 0.5\n", "rate"),
        ("@dataclass(frozen=True)\nclass Config:\n    rate: int\n", "rate"),
        ("class Config:\n    rate: int = 1\n", "must be a dataclass"),
        *((f"{HEAD}{field}\n", "range") for field in WRONG_RANGES),
    ],
)
def test_a_plug_ins_config_that_cannot_be_read_is_one_line(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "decoders").mkdir()
    path = write(tmp_path / "decoders" / "mine.py", f"from dataclasses import dataclass\nVERSION = 1\n{body}")
    with pytest.raises(UsageError, match=said) as caught:
        compose("demo", (), [tmp_path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def numeric(hint: object) -> bool:
    """Whether values of a type are numbers, or tuples of them."""
    return hint in (int, float) or any(numeric(argument) for argument in get_args(hint))


def numeric_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    for entry in fields(config):
        if is_dataclass(entry.type):
            yield from numeric_fields(entry.type, f"{prefix}{entry.name}.")
        elif numeric(get_type_hints(config)[entry.name]):
            yield f"{prefix}{entry.name}", entry


def test_every_numeric_key_has_a_range() -> None:
    entries = dict(numeric_fields(schema()))
    assert {"train.lr", "decoder.decoder_b.tma_key", "encoder.timm_plain.taps", "report.margin"} <= entries.keys()
    assert [key for key, entry in entries.items() if ranges.of(entry) is None] == []


@pytest.mark.parametrize(
    ("notation", "inside", "outside"),
    [
        ("[0, 1]", (0, 1, 0.5), (-1e-9, 1.1, math.nan)),
        ("(0, 1)", (1e-9,), (0, 1)),
        ("[1, inf)", (1, 10**9), (0, math.inf)),
    ],
)
def test_a_range_holds_its_closed_ends_alone(notation: str, inside: tuple[float], outside: tuple[float]) -> None:
    allowed = ranges.parse(notation)
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


def test_a_plug_in_gives_ranges_of_its_own_and_none_is_in_all(tmp_path: Path) -> None:
    (tmp_path / "decoders").mkdir()
    body = 'rate: float | None = field(default=None, metadata={"range": "(0, 1]"})'
    head = "from dataclasses import dataclass, field\nVERSION = 1\n@dataclass(frozen=True)\nclass Config:\n    "
    write(tmp_path / "decoders" / "mine.py", f"{head}{body}\n")
    assert compose("demo", ["decoder.mine.rate=1"], [tmp_path])["decoder"]["mine"] == {"rate": 1.0}
    with pytest.raises(UsageError, match=r"^decoder\.mine\.rate=0\.0: must be in \(0, 1\]$"):
        compose("demo", ["decoder.mine.rate=0"], [tmp_path])
