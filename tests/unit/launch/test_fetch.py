"""Weights from the hub are brought before any rank starts; a machine without network says so in one line."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from harness.common.errors import UnfitError
from harness.config.compose import compose
from harness.launch import runner

MODEL = "beit_base_patch16_224.in22k_ft_in22k"


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def config(*overrides):
    return compose("demo", [f"encoder.beit.model={MODEL}", *overrides])


def put_in_cache(home: Path) -> None:
    """A snapshot as the hub's client lays it out."""
    name = timm.get_pretrained_cfg(MODEL).hf_hub_id
    folder = home / "hub" / ("models--" + name.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / "snapshots" / ("0" * 40) / "model.safetensors")


def test_a_machine_without_network_and_cache_is_told_before_anything_starts(caplog):
    with pytest.raises(UnfitError) as caught:
        runner.fetch(config("encoder.beit.pretrained=true"))
    text = str(caught.value)
    assert MODEL in text
    assert "encoder.beit.weights=FILE" in text
    assert "\n" not in text
    assert len(caplog.messages) == 1


def test_what_is_in_the_cache_is_enough(tmp_path, caplog):
    put_in_cache(tmp_path)
    runner.fetch(config("encoder.beit.pretrained=true"))
    assert [MODEL in line for line in caplog.messages] == [True]  # it is looked for, found, and nothing is raised


@pytest.mark.parametrize("overrides", [[], ["encoder.beit.pretrained=true", "encoder.beit.weights=here.pth"]])
def test_nothing_is_asked_of_the_hub_where_it_is_not_needed(monkeypatch, overrides):
    monkeypatch.setattr(runner.subprocess, "run", lambda *args, **kw: pytest.fail("a child was started"))
    runner.fetch(config(*overrides))
