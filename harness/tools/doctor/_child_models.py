"""Child of the doctor: reads weights files without executing a pickle, builds the encoder and counts parameters."""

import json
import pickletools
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from harness.common.child import answer
from harness.common.errors import UnfitError
from harness.config import plugins
from harness.config.compose import first_line
from harness.engine import sliding_window
from harness.engine.preflight import lightly
from harness.tools.doctor._facts import HubWeights, Networks, Question, WeightsFile
from models import segmentor
from models.encoders import _weights

OURS = "this harness's own"


def main() -> None:
    """Answer the question on stdin."""
    with answer() as out:
        question: Question = TypeAdapter(Question).validate_json(sys.stdin.read())
        try:
            networks = build(question)
        except Exception as error:  # of an encoder, which may be a person's own
            networks = Networks(error=first_line(error))
        files = {key: inspect(path) for key, path in question.files.items()}
        json.dump(asdict(replace(networks, files=files, hub=hub(question.options))), out)


def inspect(path: str) -> WeightsFile:
    """Return a file's contents, or why it cannot be read. No code of it runs."""
    try:
        state = _weights.read(path)
    except (OSError, ValueError) as error:
        cause = str(error.__cause__ or error)  # torch's own message names what the pickle imports
        return WeightsFile(error=first_line(error), imports=refused(cause, path))
    kind = layout(state)
    return WeightsFile(
        tensors=len(state),
        bytes=sum(value.numel() * value.element_size() for value in state.values()),
        layout=kind,
        classes=classes(state) if kind == OURS else None,
        self_supervised="rel_pos_bias.relative_position_bias_table" in state,
    )


def refused(message: str, path: str) -> str:
    """Return what a refused pickle would import, by torch's message or its own bytes; empty for other failures."""
    if "weights_only" not in message.lower() and "weights only" not in message.lower():
        return ""
    for word in ("GLOBAL ", "Unsupported global: ", "Unsupported class "):
        if word in message:
            return message.split(word, 1)[1].split()[0].strip("`'\".,")
    return ", ".join(imports(path)[:5]) or "code of its own"


def imports(path: str) -> list[str]:
    """Return the names that a plain pickle would import, by disassembling it: nothing of it runs."""
    names: list[str] = []
    words: list[str] = []
    try:
        with open(path, "rb") as opened:
            for opcode, argument, _ in pickletools.genops(opened):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(words[-2:]))
                elif isinstance(argument, str):
                    words.append(argument)
    except ValueError:  # no pickle from some byte on
        pass
    return [name for name in dict.fromkeys(names) if not name.startswith(("torch.", "collections."))]


def layout(state: Mapping[str, Tensor]) -> str:
    """Return whose names the tensors have."""
    heads = {name.split(".", 1)[0] for name in state}
    if {"encoder", "decoder"} <= heads:
        return OURS
    if "backbone" in heads and "decode_head" in heads:
        return "a segmentation toolbox's"
    if any(name.endswith("relative_position_index") for name in state) or "rel_pos_bias" in heads:
        return "the original BEiT repository's"
    return "timm's"


def classes(state: Mapping[str, Tensor]) -> int | None:
    """Return the classes of a checkpoint of ours: rows of its classifier's last weight."""
    rows = [
        len(value)
        for name, value in state.items()
        if name.startswith("decoder.classifier") and name.endswith("weight") and value.ndim == 4
    ]
    return rows[-1] if rows else None


def build(question: Question) -> Networks:
    """Build the encoder, with its weights where files are given, and count the parameters with each decoder.

    Networks are built on the meta device, which checks shapes and holds no numbers; for real where one cannot be.
    """
    encoder = plugins.load("encoders", question.encoder, question.plugins)
    config = settings(encoder, question.options)
    alone = lightly(lambda: encoder.Encoder(config, question.crop))
    window = ""
    try:
        sliding_window.check_window(
            question.window or question.crop, sliding_window.WindowSize(alone.size, alone.multiple)
        )
    except UnfitError as error:
        window = str(error)
    sizes = {}
    for name, options in question.decoders.items():
        decoder = plugins.load("decoders", name, question.plugins)
        whole = encoder, config, decoder, settings(decoder, options), question.classes, question.crop
        sizes[name] = parameters(lightly(partial(segmentor.build, *whole)))
    misfit, note = None, ""
    if question.files:
        try:
            note = fill(alone, partial(encoder.Encoder, config, question.crop))
            misfit = ""
        except (OSError, ValueError) as error:
            misfit = first_line(error)
    return Networks(encoder=parameters(alone), parameters=sizes, window=window, misfit=misfit, note=note)


def fill(encoder: Any, again: Callable[[], Any]) -> str:
    """Load the encoder's weights, into one with numbers if it must be; what it says of it.

    Raise ValueError where they do not fit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the meta device keeps no numbers
            return encoder.load_pretrained() or ""
    except (OSError, ValueError):
        raise
    except Exception:
        return again().load_pretrained() or ""


def settings(module: Any, section: Mapping[str, Any]) -> Any:
    """Return a plug-in's Config of JSON, which has no tuples."""
    return module.Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in section.items()})


def parameters(module: torch.nn.Module) -> int:
    """Return the numbers that training moves."""
    return sum(value.numel() for value in module.parameters())


def hub(options: Mapping[str, Any]) -> HubWeights | None:
    """Return the `pretrained` weights of the hub; None for a name that the hub does not have."""
    if not options.get("pretrained") or not options.get("model"):
        return None
    import timm
    from huggingface_hub import try_to_load_from_cache

    try:
        pretrained = timm.get_pretrained_cfg(options["model"])
    except Exception:  # a name of no model of timm's: building the encoder says so
        return None
    if pretrained is None or not pretrained.hf_hub_id:
        return None
    names = ("model.safetensors", "pytorch_model.bin")
    cached = any(isinstance(try_to_load_from_cache(pretrained.hf_hub_id, name), str) for name in names)
    return HubWeights(pretrained.hf_hub_id, cached)
