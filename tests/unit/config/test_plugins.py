"""The folder is the registry: what is found, what is read without importing, and what is refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.common.errors import UsageError
from harness.config import plugins
from harness.tools import check

WITH_CONFIG = [(kind, name) for kind in ("encoders", "decoders", "datasets") for name in plugins.names(kind)]
CONFIG = "VERSION = 1\n@dataclass(frozen=True)\nclass Config:\n    side: int = {default}\n"


def put(folder: Path, kind: str, name: str, text: str = "VERSION = 1\n") -> Path:
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def shape(config: Any) -> list[Any]:
    return [(f.name, str(f.type), f.default, f.default_factory, dict(f.metadata)) for f in dataclasses.fields(config)]


def test_the_folders_are_found() -> None:
    assert {"upernet", "decoder_a", "decoder_b"} <= set(plugins.names("decoders"))
    assert {"beit", "timm_pyramid"} <= set(plugins.names("encoders"))
    assert {"inline", "torchrun"} <= set(plugins.names("launchers"))
    assert all(not name.startswith("_") for kind in plugins.KINDS for name in plugins.names(kind))


@pytest.mark.parametrize(("kind", "name"), WITH_CONFIG)
def test_what_is_read_is_what_is_imported(kind: str, name: str) -> None:
    module, known = plugins.load(kind, name), plugins.read_schema(plugins.find(kind, name))
    assert type(module.VERSION) is int
    assert known.version == module.VERSION >= 1
    assert dataclasses.is_dataclass(known.config)
    assert known.config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert shape(known.config) == shape(module.Config)
    assert hash(module.Config()) == hash(module.Config())
    assert module.__doc__
    assert plugins.docstring(plugins.find(kind, name)) == module.__doc__.strip()


@pytest.mark.parametrize(("kind", "name"), WITH_CONFIG)
def test_defaults_are_written_out(kind: str, name: str) -> None:
    config: Any = plugins.read_schema(plugins.find(kind, name)).config
    for field in dataclasses.fields(config):
        assert field.default is None or type(field.default) in (int, float, str, bool, tuple), field.name


def test_reading_imports_nothing() -> None:
    code = (
        "import sys; from harness.config import plugins\n"
        "for kind in ('encoders', 'decoders', 'datasets'):\n"
        "    for path in plugins.paths(kind).values(): plugins.read_schema(path)\n"
        "print(sorted({'torch', 'timm', 'models.decoders.upernet', 'harness.data.datasets.vspw'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("default", ["SIDE", "math.pi", "torch.get_num_threads()", "[1]", "os.environ['SIDE']"])
def test_a_computed_default_is_refused(tmp_path: Path, default: str) -> None:
    path = put(tmp_path, "decoders", "mine.py", CONFIG.format(default=default))
    with pytest.raises(UsageError, match=r"mine\.py:3: Config must have literal defaults only"):
        plugins.read_schema(path)


@pytest.mark.parametrize("value", ["1 + 1", "'1'", "1.0", "True", "current()", "None"])
def test_a_version_that_is_no_whole_number_is_refused(tmp_path: Path, value: str) -> None:
    path = put(tmp_path, "decoders", "mine.py", f"VERSION = {value}\n")
    with pytest.raises(UsageError, match=r"mine\.py:1: VERSION must be a literal whole number"):
        plugins.read_schema(path)


@pytest.mark.parametrize("line", ["VERSION = 3", "VERSION: int = 3", "VERSION: Final = 3"])
def test_a_version_is_read_however_it_is_annotated(tmp_path: Path, line: str) -> None:
    assert plugins.read_schema(put(tmp_path, "decoders", "mine.py", line)) == plugins.Schema(3, None)


def test_a_file_that_does_not_parse_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py:2:"):
        plugins.read_schema(put(tmp_path, "decoders", "mine.py", "VERSION = 1\ndef (\n"))


@pytest.mark.parametrize("name", ["My.py", "2nd.py", "a-b.py", "é.py"])
def test_a_name_that_is_no_key_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, "decoders", name)
    with pytest.raises(UsageError, match="rename the file"):
        plugins.names("decoders", [tmp_path])


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "one", "decoders", "upernet.py")
    with pytest.raises(UsageError, match=r"'upernet' is taken by .*models/decoders/upernet\.py"):
        plugins.names("decoders", [tmp_path / "one"])
    for folder in ("two", "three"):
        put(tmp_path / folder, "decoders", "mine.py")
    with pytest.raises(UsageError, match=r"'mine' is taken by .*two/decoders/mine\.py"):
        plugins.names("decoders", [tmp_path / "two", tmp_path / "three"])


def test_helpers_are_no_plugins(tmp_path: Path) -> None:
    put(tmp_path, "decoders", "_Shared.py")
    assert plugins.names("decoders", [tmp_path]) == plugins.names("decoders")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no decoder 'decoder_c' \(did you mean 'decoder_[ab]'\?\); `harness list"):
        plugins.find("decoders", "decoder_c")
    with pytest.raises(UsageError, match=r"no encoder 'xyz'; `harness list encoders` lists them"):
        plugins.load("encoders", "xyz")


def test_a_folder_of_ones_own_joins(tmp_path: Path) -> None:
    path = put(tmp_path, "decoders", "mine.py", '"""Mine."""\n' + CONFIG.format(default=7))
    assert set(plugins.names("decoders", [tmp_path])) - set(plugins.names("decoders")) == {"mine"}
    assert plugins.names("encoders", [str(tmp_path)]) == plugins.names("encoders")
    assert plugins.find("decoders", "mine", [tmp_path]) == path
    known = plugins.read_schema(path)
    assert known.version == 1
    assert shape(known.config) == [("side", "<class 'int'>", 7, dataclasses.MISSING, {})]


def test_a_file_of_ones_own_is_imported_once(tmp_path: Path) -> None:
    put(tmp_path, "reports", "mine.py", "made = []\n")
    module = plugins.load("reports", "mine", [tmp_path])
    assert plugins.load("reports", "mine", [tmp_path]).made is module.made


def test_two_folders_may_hold_one_name_for_two_kinds(tmp_path: Path) -> None:
    for kind in ("reports", "launchers"):
        put(tmp_path, kind, "mine.py", f"KIND = '{kind}'\n")
    assert [plugins.load(kind, "mine", [tmp_path]).KIND for kind in ("reports", "launchers")] == [
        "reports",
        "launchers",
    ]


def test_a_file_that_does_not_import_is_told_and_may_be_mended(tmp_path: Path) -> None:
    path = put(tmp_path, "reports", "mine.py", "import no_such_module\n")
    with pytest.raises(UsageError, match=r"mine\.py: cannot be imported: ModuleNotFoundError"):
        plugins.load("reports", "mine", [tmp_path])
    path.write_text("fine = True\n")
    assert plugins.load("reports", "mine", [tmp_path]).fine


HELPED = "from . import _more\nfrom ._half import half\nfrom ..shared import TEN\nVALUE = half(TEN) + _more.ONE\n"


def helped(folder: Path, ten: int) -> None:
    put(folder, "decoders", "mine.py", HELPED)
    put(folder, "decoders", "_half.py", "def half(x): return x / 2\n")
    put(folder, "decoders", "_more.py", "ONE = 1\n")
    (folder / "shared.py").write_text(f"TEN = {ten}\n")


def test_files_beside_a_plug_in_are_its_folders(tmp_path: Path) -> None:
    helped(tmp_path / "one", 10)
    helped(tmp_path / "two", 20)
    (tmp_path / "two" / "decoders" / "__init__.py").write_text("")
    for folder, expected in (("one", 6), ("two", 11)):
        assert expected == plugins.load("decoders", "mine", [tmp_path / folder]).VALUE
        assert expected == plugins.load_named("decoders", str(tmp_path / folder / "decoders" / "mine.py"), (), ()).VALUE
    assert "mine" not in sys.modules
    assert "shared" not in sys.modules


@pytest.mark.parametrize("path", ["odd-name/exp-1.py", "v1.0/exp.v2.py"])
def test_files_beside_one_whose_name_is_no_identifier(tmp_path: Path, path: str) -> None:
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text("from ._x import x\n")
    (file.parent / "_x.py").write_text("x = 3\n")
    assert plugins.load_file(file).x == 3


def test_a_plug_in_that_is_imported_by_another_is_the_same_module(tmp_path: Path) -> None:
    put(tmp_path, "decoders", "base.py", "class Decoder: pass\n")
    put(tmp_path, "decoders", "variant.py", "from .base import Decoder\n")
    variant, base = (plugins.load("decoders", name, [tmp_path]) for name in ("variant", "base"))
    assert variant.Decoder is base.Decoder


def test_a_file_beside_it_that_is_imported_without_its_dot(tmp_path: Path) -> None:
    put(tmp_path, "decoders", "mine.py", "from _half import half\n")
    put(tmp_path, "decoders", "_half.py")
    with pytest.raises(UsageError, match=r"cannot be imported: .* with a dot: from \._half import"):
        plugins.load("decoders", "mine", [tmp_path])


def test_a_folder_inside_the_project_is_ones_own_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "decoders", "mine.py", "found = True\n")
    (tmp_path / "models" / "decoders").mkdir(parents=True)
    monkeypatch.setattr(plugins, "PROJECT", tmp_path)
    assert plugins.load("decoders", "mine", [tmp_path]).found


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such plug-in folder"):
        plugins.names("decoders", [tmp_path / "plugns"])


def test_versions_of_our_own_modules() -> None:
    assert plugins.version_of("harness/engine/train.py") >= 1
    assert plugins.version_of("harness/engine/evaluate.py") >= 1


def test_a_folder_with_a_wrong_name_or_a_level_too_deep_is_named(tmp_path: Path) -> None:
    put(tmp_path / "right", "decoders", "mine.py")
    put(tmp_path / "wrong", "decoder", "mine.py")
    put(tmp_path / "wrong", "notes", "mine.py")
    with pytest.raises(UsageError, match=r"wrong/decoder is not read: its name must be decoders$"):
        plugins.find("decoders", "mine", [tmp_path / "wrong"])
    deep = tmp_path / "right" / "decoders"
    with pytest.raises(UsageError, match=rf"--plugins takes the folder above {deep}: the one that holds decoders/$"):
        check.find("mine", [deep])
    assert plugins.misplaced([tmp_path / "right"]) == ""
