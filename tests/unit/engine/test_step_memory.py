"""The traced memory of a step: equal to that of real tensors, counted in the same way; and what makes a step fit."""

from dataclasses import replace

import pytest
import tiny_jobs
import torch

from harness.config.compose import Content, compose
from harness.engine import build, step_memory
from harness.engine.runtime import Rank
from harness.engine.step_memory import LiveBytes, changes, fitting, peak, step
from harness.engine.train import Trainer
from harness.plan.job import Train
from harness.plan.spec import read

CLASSES = 8


def job(decoder, *words):
    config = replace(compose("demo", ["train.crop=64", *words]), content=Content(videos={"train": 32}))
    return Train(config, decoder).spec()


def real(spec):
    """The same step with storage and values."""
    trainer = Trainer(spec, CLASSES, Rank(0, 1, torch.device("cpu"), 1))
    trainer.model.to(memory_format=torch.channels_last)
    return step(trainer, spec.train.micro_batch or spec.train.batch)


@pytest.mark.parametrize("decoder", ["upernet", "decoder_a", "decoder_b"])
@pytest.mark.parametrize(
    "words", [(), ("train.micro_batch=2", "encoder.beit.checkpoint=true")], ids=["plain", "sparing"]
)
def test_it_is_that_of_real_tensors(decoder, words):
    spec = job(decoder, *words)
    assert peak(spec, CLASSES) == pytest.approx(real(spec), rel=0.01)


def test_live_bytes_are_those_of_distinct_storages():
    live = LiveBytes()
    with live:
        first = torch.zeros(256)  # 1 KiB
        view = first[:10]
        second = first + 1
        assert live.now == 2048
        del second
        assert live.now == 1024
        del first
        assert live.now == 1024  # the view holds it
        del view
    assert (live.now, live.peak) == (0, 2048)


def test_more_images_take_more_and_more_ranks_less():
    spec = job("upernet")
    assert peak(spec, CLASSES, world=4) < peak(spec, CLASSES, world=2) < peak(spec, CLASSES)
    assert peak(spec, CLASSES, world=8) > 0  # one image a rank, whose batch norm takes statistics over ranks


def test_the_least_change_that_fits_comes_first(monkeypatch):
    spec = job("decoder_a")
    words = [text for text, _ in changes(spec, 1)]
    key = "encoder.beit.checkpoint=true"
    assert words == [
        key,
        *("train.micro_batch=4", f"{key} train.micro_batch=4"),
        *("train.micro_batch=2", f"{key} train.micro_batch=2"),  # batch norm needs two images
    ]
    assert [text for text, _ in changes(job("decoder_a", key), 4)] == ["train.micro_batch=4"]
    held = {text: peak(changed, CLASSES) for text, changed in changes(spec, 1)}
    of_job = {repr(changed): held[text] for text, changed in changes(spec, 1)}

    def known(changed, classes, world):  # tracing takes a second
        assert (classes, world) == (CLASSES, 1)
        return of_job[repr(changed)]

    monkeypatch.setattr(step_memory, "peak", known)
    assert fitting(spec, CLASSES, 1, held[key]) == (key, held[key])
    assert fitting(spec, CLASSES, 1, min(held.values())) == next(
        item for item in held.items() if item[1] == min(held.values())
    )
    assert fitting(spec, CLASSES, 1, 1000) is None


def test_fp16_is_traced_on_a_machine_without_a_gpu():
    half, single = (peak(replace(job("upernet"), precision=precision), CLASSES) for precision in ("fp16", "fp32"))
    assert half < single


def test_a_model_that_asks_for_values_is_not_known(monkeypatch, capsys):
    import io
    import json

    from harness.plan.spec import to_json

    def refuse(*_):
        raise RuntimeError("asks for a value\nat length")

    monkeypatch.setattr(step_memory, "peak", refuse)
    question = {"jobs": [[to_json(job("upernet")), CLASSES]], "world": 1, "limit": 1}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(question)))
    assert step_memory.main() == 0
    assert json.loads(capsys.readouterr().out) == {"reason": "asks for a value"}


def test_what_is_frozen_costs_less_and_an_average_a_copy_more(tmp_path):
    options = {"plain": {}, "freeze": {"freeze": "encoder"}, "lora": {"lora": 2}, "ema": {"ema": 0.9}}
    jobs = {name: read(tiny_jobs.training(tmp_path / name, **keys)) for name, keys in options.items()}
    peaks = {name: step_memory.peak(job, 4) for name, job in jobs.items()}
    assert peaks["freeze"] < peaks["lora"] < peaks["plain"]
    with torch.device("meta"):
        model = build.segmentor(jobs["plain"], 4)
    copy = sum(value.numel() * value.element_size() for value in (*model.parameters(), *model.buffers()))
    assert copy <= peaks["ema"] - peaks["plain"] <= 1.01 * copy
