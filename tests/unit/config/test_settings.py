from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.config import settings


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, an empty home and no tracking URI."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_built_in_without_a_file():
    found = settings.resolve()
    assert (found.preset, found.root, found.launcher) == ("demo", "runs", "auto")
    assert set(found.sources.values()) == {"built in"}


def test_flag_over_working_directory_over_home(nowhere: Path):
    home = nowhere / "home" / "harness"
    home.mkdir(parents=True)
    (home / "harness.yaml").write_text("preset: camvid\nnproc: 4\n")
    assert settings.resolve().preset == "camvid"
    (nowhere / "harness.yaml").write_text("preset: paper\n")
    found = settings.resolve(root="here")
    assert (found.preset, found.nproc, found.root) == ("paper", None, "here")  # one file counts, the nearest
    assert found.sources["preset"] == "harness.yaml"
    assert found.sources["root"] == "flag"


def test_relative_paths_are_taken_from_the_file(nowhere: Path):
    (nowhere / "mine").mkdir()
    (nowhere / "harness.yaml").write_text("root: store\nplugins: [mine]\npaths: {data.vspw.root: VSPW}\n")
    found = settings.resolve()
    assert found.root == str(nowhere / "store")
    assert found.plugins == (str(nowhere / "mine"),)
    assert found.paths == {"data.vspw.root": str(nowhere / "VSPW")}


def test_the_home_and_a_preset_are_places_too(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(nowhere / "me"))
    (nowhere / "harness.yaml").write_text("root: ~/runs\npreset: own.yaml\n")
    found = settings.resolve()
    assert (found.root, found.preset) == (str(nowhere / "me" / "runs"), str(nowhere / "own.yaml"))


def test_the_environment_names_the_store_before_the_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    (nowhere / "harness.yaml").write_text("tracking_uri: http://a:1\n")
    assert settings.resolve().tracking_uri == "http://a:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b:2")
    assert settings.resolve().tracking_uri == "http://b:2"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prset: paper", "preset"),  # with a suggestion
        ("nproc: many", "nproc"),
        ("paths: {train.lr: 3}", "train.lr"),
        ("paths: {data.vspw.rot: x}", "data.vspw.root"),
        ("- a list", "mapping"),
        ("stall: -1", "stall -1"),
        ("stall: .nan", "stall nan"),
        ("nproc: 0", "nproc 0"),
        ("root: ${oc.env:NOBODY_HAS_SET_THIS}/runs", "NOBODY_HAS_SET_THIS"),
        ("preset:\tpaper\n\tx: 1", "harness.yaml"),
    ],
)
def test_mistakes_are_named_in_one_line(nowhere: Path, text: str, named: str):
    (nowhere / "harness.yaml").write_text(text)
    with pytest.raises(UsageError, match=named) as error:
        settings.resolve()
    assert "\n" not in str(error.value)
