"""The doctor on weights of every kind, GPUs that torch sees and does not, and packages that do not match."""

import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from harness.config.compose import Config, compose
from harness.tools.doctor import Finding, _child_models, _children, _devices, _software, _weights
from harness.tools.doctor._facts import Device, HubWeights, Machine, Networks, Package, Question
from models import segmentor
from models.decoders import decoder_a
from models.encoders import beit

TINY = {"model": "tiny"}


def unfit(findings: Iterable[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.fit is False]
    assert all(finding.remedy and "\n" not in finding.text for finding in found), "a mistake is one line with a remedy"
    return found


# --- weights


def question(weights: Path | None, **more: Any) -> Question:
    files = {} if weights is None else {"encoder.beit.weights": str(weights)}
    options = TINY | {"weights": None if weights is None else str(weights)}
    return Question("beit", options, (), 64, 8, files, **more)


def in_process(asked: Question) -> Networks:
    """What the child answers, without the seconds that a process takes."""
    files = {key: _child_models.inspect(path) for key, path in asked.files.items()}
    return replace(_child_models.build(asked), files=files)


def examine_weights(path: Path, root: Path) -> list[Finding]:
    return list(_weights.examine(naming(path), root, in_process(question(path))))


def naming(path: Path) -> Config:
    return compose("demo", [f"encoder.beit.weights={path}"])


def backbone() -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in beit.Encoder(beit.Config(), 64).backbone.state_dict().items()}


def test_weights_that_fit(tmp_path: Path) -> None:
    save_file(backbone(), tmp_path / "w.safetensors")
    found = examine_weights(tmp_path / "w.safetensors", tmp_path)
    assert not unfit(found)
    assert "safetensors" in found[0].text
    assert "sha256" in found[0].text
    assert "timm's layout" in found[1].text
    assert "encoder beit accepts these weights" in [finding.text for finding in found]


def test_weights_of_the_original_repository(tmp_path: Path) -> None:
    state = backbone() | {"blocks.0.attn.relative_position_index": torch.zeros(17, 17)}
    torch.save({"model": state}, tmp_path / "w.pth")
    found = examine_weights(tmp_path / "w.pth", tmp_path)
    assert not unfit(found)
    assert found[0].text.startswith(f"{tmp_path}/w.pth: torch,")
    assert "the original BEiT repository's layout" in found[1].text


def test_self_supervised_weights_are_noted(tmp_path: Path) -> None:
    tables = {name for name in backbone() if name.endswith("relative_position_bias_table")}
    state = {name: value for name, value in backbone().items() if name not in tables}
    state["rel_pos_bias.relative_position_bias_table"] = backbone()[min(tables)]
    torch.save({"model": state}, tmp_path / "w.pth")
    found = examine_weights(tmp_path / "w.pth", tmp_path)
    assert not unfit(found)
    assert any(finding.fit is None and "self-supervised only" in finding.text for finding in found)


def test_weights_of_another_model(tmp_path: Path) -> None:
    wide = {"blocks.0.mlp.fc1.bias": torch.zeros(512)}
    save_file(backbone() | wide, tmp_path / "w.safetensors")
    (found,) = unfit(examine_weights(tmp_path / "w.safetensors", tmp_path))
    assert "encoder beit does not accept them" in found.text
    assert "shape" in found.text


def test_a_checkpoint_of_ours(tmp_path: Path) -> None:
    config = decoder_a.Config(channels=8, aux_channels=8, memory_channels=8)
    model = segmentor.build(beit, beit.Config(), decoder_a, config, 5, 64)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    found = examine_weights(tmp_path / "weights.safetensors", tmp_path)
    assert "this harness's own layout, trained for 5 classes" in found[1].text
    assert unfit(found)[0].text.endswith("trained for 5 classes, the data set has 4")


class Malice:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_does_not_run(tmp_path: Path, save: Any) -> None:
    save({"model": backbone(), "args": Malice(tmp_path / "ran")}, tmp_path / "w.pth")
    answer = _children.networks(naming(tmp_path / "w.pth"), [])()
    (found,) = unfit(_weights.examine(naming(tmp_path / "w.pth"), tmp_path, answer))
    assert "mkdir" in found.text
    assert "none of its code ran" in found.text
    assert "safetensors" in found.remedy
    assert not (tmp_path / "ran").exists()


WHOLE = b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(64) + bytes(8)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.safetensors", WHOLE, ""),
        ("w.safetensors", WHOLE[:-3], "77 bytes where its header says 80"),
        ("w.safetensors", WHOLE.replace(b'"a"', b"'a'"), "damaged header"),
        ("w.safetensors", b"PK\3\4 a zip", "a truncated torch file"),
        ("w.safetensors", b"neither", "neither"),
        ("w.pth", WHOLE, ""),
        ("w.pth", b"PK\3\4 cut off", "truncated"),
        ("w.pth", b"", "0 bytes"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("w.pth", b"\n<!DOCTYPE html>", "a web page"),
        ("w.pth", b"neither", "neither"),
    ],
)
def test_kinds_of_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    _, problem, remedy = _weights.kind(tmp_path / name)
    assert says in problem
    assert bool(problem) == bool(says)
    assert remedy or not problem


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    found = list(_weights.examine(naming(tmp_path / "no.pth"), tmp_path, in_process(question(None))))
    assert "no such file" in unfit(found)[0].text
    assert "encoder.beit.weights=FILE" in unfit(found)[0].remedy


def test_a_window_that_the_encoder_refuses(tmp_path: Path) -> None:
    config = compose("demo", ["train.crop=50"])
    (found,) = unfit(_weights.examine(config, tmp_path, _children.networks(config, [])()))
    assert "multiple of 32" in found.text


def test_weights_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("demo", ["encoder.beit.pretrained=true", "encoder.beit.model=beit_base_patch16_224"])
    cached = Networks(encoder=1, hub=HubWeights("timm/beit", cached=True))
    assert list(_weights.examine(config, tmp_path, cached))[-1].fit
    known = Networks(encoder=1, hub=HubWeights("timm/beit", cached=False))
    assert list(_weights.examine(config, tmp_path, known))[-1].fit is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = unfit(_weights.examine(config, tmp_path, known))
    assert "encoder.beit.weights=FILE" in found.remedy


def test_parameters_are_counted_without_numbers() -> None:
    section = {"channels": 8, "aux_channels": 8, "memory_channels": 8}
    found = in_process(question(None, decoders={"decoder_a": section}))
    model = segmentor.build(beit, beit.Config(), decoder_a, decoder_a.Config(**section), 8, 64)
    assert found.parameters["decoder_a"] == sum(value.numel() for value in model.parameters())


# --- devices


def facts(*devices: Device, cuda: str = "13.0", error: str = "") -> Machine:
    packages = {name: Package("2.14.1", cuda) for name in ("torch", "torchvision")}
    return Machine({**packages, "timm": Package("1.0.31")}, archs=("sm_75", "sm_80"), error=error, devices=devices)


def device(name: str = "NVIDIA A100", capability: tuple[int, int] = (8, 0), error: str = "") -> Device:
    return Device(name, capability, 40 * 2**30, bf16=capability >= (8, 0), error=error)


A100 = _devices.Gpu("NVIDIA A100", "580.82.07", 40960)
OLD = _devices.Gpu("NVIDIA A100", "535.104.05", 40960)
V100 = _devices.Gpu("Tesla V100-SXM2-32GB", "580.82.07", 32768)


def test_gpus_that_torch_can_use() -> None:
    found = list(_devices.gpus([A100, A100], facts(device(), device()), None))
    assert [finding.fit for finding in found] == [True, True]
    assert "GPU 1: NVIDIA A100, 40.0 GiB, driver 580.82.07, compute capability 8.0" in found[1].text


def test_a_driver_that_torch_calls_too_old() -> None:
    error = "The NVIDIA driver on your system is too old (found version 12020)."
    (found,) = unfit(_devices.gpus([OLD, OLD], facts(error=error), None))
    assert "2 × NVIDIA A100, 40.0 GiB, driver 535.104.05: nvidia-smi sees it" in found.text
    assert "would run on the CPU" in found.text
    assert f"{error} (torch 2.14.1 is built for CUDA 13.0 and sm_75, sm_80)" in found.text
    assert "update the driver, or install another build of torch" in found.remedy


def test_a_v100_that_torch_has_no_code_for() -> None:
    (found,) = unfit(_devices.gpus([V100], facts(device(V100.name, (7, 0), "no kernel image is available")), None))
    assert "compute capability 7.0: torch cannot use it: no kernel image is available" in found.text
    assert "docs/INSTALL.md" in found.remedy


def test_torch_without_cuda() -> None:
    (found,) = unfit(_devices.gpus([A100], facts(cuda=""), None))
    assert "built without CUDA" in found.text


def test_torchs_own_words_where_nothing_else_explains() -> None:
    (found,) = unfit(_devices.gpus([A100], facts(error="CUDA unknown error"), None))
    assert "CUDA unknown error" in found.text
    (found,) = unfit(_devices.gpus([A100, A100], facts(device()), None))
    assert "sees 2 GPUs, torch 1" in found.text


def test_hidden_gpus_are_a_note() -> None:
    assert [one.fit for one in _devices.gpus([A100, A100], facts(device()), "1")] == [True, None]
    (found,) = _devices.gpus([A100], facts(), "")
    assert found.fit is None
    assert "CUDA_VISIBLE_DEVICES=(empty) hides 1 GPU of 1" in found.text


@pytest.mark.parametrize(
    ("wanted", "devices", "fit"),
    [
        ("fp16", [], False),
        ("bf16", [], None),
        ("fp16", [device()], None),
        ("bf16", [device("Tesla V100", (7, 0))], False),
        ("fp16", [device("Tesla V100", (7, 0))], None),
        ("fp16", [device(error="no kernel image")], False),
    ],
)
def test_precision(wanted: str, devices: list[Device], fit: bool | None) -> None:
    found = list(_devices.precision(wanted, devices))
    assert [one.fit for one in found] == ([False] if fit is False else [])
    assert len(unfit(found)) == len(found)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    script.touch(0o755)
    return script


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_nvidia_smi_and_this_torch(smi: Path) -> None:
    smi.write_text('#!/bin/sh\necho "NVIDIA A100-SXM4-40GB, 470.57.02, 40960"\n')
    (found,) = unfit(_devices.examine(_children.machine()(), compose("demo")))
    assert "1 × NVIDIA A100-SXM4-40GB, 40.0 GiB, driver 470.57.02" in found.text
    assert "driver" in found.remedy or "wheel" in found.remedy


def test_an_nvidia_smi_that_fails(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'has failed because it cannot communicate with the driver'; exit 9\n")
    assert "cannot communicate" in unfit(_devices.examine(facts(), compose("demo")))[0].text
    smi.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert not unfit(_devices.examine(facts(), compose("demo")))
    smi.write_text("#!/bin/sh\necho 'Tesla K80, 418.87, 11441'\n")
    assert _devices.nvidia_smi() == ([_devices.Gpu("Tesla K80", "418.87", 11441)], "")


# --- software


def test_one_matching_set() -> None:
    (found,) = _software.matching(facts())
    assert found.fit
    assert "built for CUDA 13.0" in found.text


def test_sets_that_do_not_match() -> None:
    whole = facts()
    apart = replace(whole, packages={**whole.packages, "torch": Package("2.14.1")})
    assert (
        "torch for the CPU and torchvision for CUDA 13.0 come from different builds"
        in unfit(_software.matching(apart))[0].text
    )
    nms = replace(whole, nms="RuntimeError: operator torchvision::nms does not exist")
    assert "nms does not exist" in unfit(_software.matching(nms))[0].text
    absent = Package(error="ModuleNotFoundError: No module named 'timm'")
    broken = replace(whole, packages={**whole.packages, "timm": absent})
    assert "timm cannot be imported" in unfit(_software.matching(broken))[0].text
    (found,) = unfit(_software.examine(Machine(broken="Segmentation fault"), Path("/no/constraints")))
    assert "Segmentation fault" in found.text


def test_a_child_that_dies_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text("import sys; print('half'); sys.exit('libcudart.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert _children.ask("dying", Machine)() == Machine(broken="libcudart.so: cannot open")


def test_versions_that_were_tested(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    mine = torch.__version__.partition("+")[0]
    pins.write_text(f"# tested\ntorch=={mine}  # a reason\nabsent-package==1.0\n")
    (found,) = _software.tested(pins)
    assert found.fit, "a local part does not count, and what is not installed is not constrained"
    pins.write_text("torch==0.4\n")
    (found,) = _software.tested(pins)
    assert found.fit is None
    assert f"torch {mine} (tested: 0.4)" in found.text
    assert next(_software.tested(tmp_path / "none")).fit is None


def test_answers_are_json() -> None:
    answer = in_process(question(None))
    assert TypeAdapter(Networks).validate_json(json.dumps(asdict(answer))) == answer
    assert answer.misfit is None
    machine = facts(device())
    assert TypeAdapter(Machine).validate_json(json.dumps(asdict(machine))) == machine
