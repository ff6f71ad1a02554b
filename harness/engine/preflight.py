"""Whether a plan's networks can be built, filled and run at their windows here, before any is trained.

Asked by `run`: of the worker that will train them, or of a child of its own where ranks are started for each launch.
Networks are built on the meta device, which checks shapes and holds no numbers.
"""

import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.common import parent
from harness.common.atomic_files import JsonObject
from harness.common.child import answer
from harness.common.errors import HarnessError, UnfitError
from harness.engine import build, class_weights, freezing, low_rank, optical_flow, sliding_window
from harness.engine.error_messages import GIB
from harness.plan.spec import TrainSpec, from_json
from models.segmentor import Segmentor

COPIES = 4  # of each weight in training: itself, its gradient, AdamW's two moments
LARGEST = 1024  # pixels of a side up to which a window is tried with numbers, where the meta device cannot


def main() -> None:
    """Answer the question on stdin: the first problem of its jobs, or none."""
    parent.die_with_parent()  # which may have been refused by its store meanwhile
    with answer() as out:
        json.dump({"problem": first_problem(json.load(sys.stdin))}, out)


def first_problem(question: JsonObject) -> str:
    """Return the first problem of a question's jobs; empty for none."""
    memory = available() if question["here"] else math.inf
    jobs = (read_train(content) for content in question["jobs"])
    problems = (problem(job, question["classes"], question["ranks"], memory) for job in jobs)
    flows = (missing_flow(*flow) for flow in question.get("flows", ()))
    return next(filter(None, chain(flows, problems)), "")


def missing_flow(method: str, weights: str | None) -> str:
    """Return why an optical flow that a metric asks for cannot be computed; empty for nothing."""
    try:
        optical_flow.check(method, weights)
    except UnfitError as error:
        return str(error)
    return ""


def read_train(content: JsonObject) -> TrainSpec:
    """Return the training that a job.yaml's content describes."""
    spec = from_json(content)
    assert isinstance(spec, TrainSpec)  # the launch asks of trainings only
    return spec


def problem(job: TrainSpec, num_classes: int, ranks: int, memory: float) -> str:
    """Return what would end a training at its start, or its evaluations; empty for nothing.

    `memory`: bytes that a rank may use.
    """
    try:
        model = lightly(partial(build.segmentor, job, num_classes))
        encoder: Any = model.encoder
        window = job.evaluate.window or job.train.crop
        accepts = sliding_window.WindowSize(encoder.size, encoder.multiple)
        sliding_window.check_window(window, accepts)
        check_memory(job, model, num_classes, ranks, memory)
        again = partial(build.segmentor, job, num_classes)
        padded = math.ceil(window / accepts.multiple) * accepts.multiple
        for side, key in {padded: "evaluate.window", job.train.crop: "train.crop"}.items():
            if why := refuses(model, side, again):
                return f"{key}={side}: the encoder does not accept it ({why}); choose another"
        if job.encoder.config.get("weights"):
            fill(model, job, again)
        build.warm_start_of(job, model)
        low_rank.adapt(model, job.train.lora)
        freezing.freeze(model, job.train.freeze)
        class_weights.given(job.train, num_classes)
    except HarnessError as error:
        return str(error)
    return ""


def lightly(build: Callable[[], Any]) -> Any:
    """Return what `build` makes, on the meta device if that can be."""
    try:
        with torch.device("meta"):
            return build()
    except (ValueError, HarnessError):  # the network's own word on its options
        raise
    except Exception:  # an operation that the meta device has not
        return build()


def fill(model: Segmentor, job: TrainSpec, again: Callable[[], Segmentor]) -> None:
    """Load the encoder's weights, into a network with numbers if it must be. Raise UnfitError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the meta device keeps no numbers
            build.load_pretrained(model, job.encoder.name)
    except HarnessError:
        raise
    except Exception:
        build.load_pretrained(again(), job.encoder.name)


def refuses(model: Segmentor, side: int, again: Callable[[], Segmentor]) -> str:
    """Return why the encoder does not take images of a side; empty where it does."""
    tries: list[tuple[Callable[[], Segmentor], str]] = [(lambda: model, "meta"), (again, "cpu")]
    for network, device in tries:
        if device == "cpu" and side > LARGEST:
            return ""  # not known: the meta device lacks an operation, and numbers would take long
        try:
            with torch.inference_mode():
                network().encoder.eval()(torch.zeros(1, 3, side, side, device=device))
            return ""
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return why


def check_memory(job: TrainSpec, model: nn.Module, num_classes: int, ranks: int, memory: float) -> None:
    """Raise UnfitError where what a training must hold is more than `memory`, before any feature map is counted."""
    per_rank = max(1, (job.train.micro_batch or job.train.batch) // ranks)
    weights = COPIES * sum(value.numel() * value.element_size() for value in model.parameters())
    buffers = sum(value.numel() * value.element_size() for value in model.buffers())
    pixels = per_rank * job.train.crop**2 * 4 * (3 + num_classes)  # float32 images and logits, (B, 3 + K, c, c)
    needed = weights + buffers + pixels
    if needed > memory:
        raise UnfitError(
            f"train.crop={job.train.crop}: a rank of {per_rank} images needs at least {needed / GIB:.1f} GiB "
            f"({buffers / GIB:.1f} of tables in the encoder), and there are {memory / GIB:.1f} GiB; lower train.crop "
            "or train.micro_batch, or raise --nproc"
        )


def available() -> float:
    """Return the bytes that a rank may use: of the smallest GPU, else of this machine or its container."""
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
        return float(min(gpus))
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        limits.append(int(text))
    return float(min(limits))
